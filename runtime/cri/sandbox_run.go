package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/oci"
)

// RunPodSandbox makes a sandbox: namespaces, network, the files that its containers share.
func (s *Service) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	if config.GetMetadata() == nil {
		return "", status.Error(codes.InvalidArgument, "sandbox config has no metadata")
	}
	if handler != "" && handler != RuntimeName {
		return "", status.Errorf(codes.InvalidArgument, "no runtime for %q is configured", handler)
	}
	e := sandboxEntry{
		ID: newID(), Phase: phaseCreating, CreatedAt: time.Now(), Handler: handler,
		Config: packed[*runtimeapi.PodSandboxConfig]{Message: proto.Clone(config).(*runtimeapi.PodSandboxConfig)},
	}
	if err := e.checkUsers(); err != nil {
		return "", err
	}
	sysctls, err := oci.Sysctls(config.GetLinux().GetSysctls(), e.hostNetwork(), e.hostIPC())
	if err != nil {
		return "", status.Error(codes.InvalidArgument, err.Error())
	}
	e.Pause = e.sharedPID()
	sb := &sandbox{id: e.ID, entry: e}
	sb.op.Lock()
	defer sb.op.Unlock()
	if err := s.reserveSandbox(sb); err != nil {
		return "", err
	}
	if err := s.buildSandbox(ctx, sb, sysctls); err != nil {
		if isHalt(err) {
			return "", err
		}
		if undoErr := s.eraseSandbox(context.WithoutCancel(ctx), sb); undoErr != nil {
			// It stays in the journal, and the next start tries again.
			s.log.Error(undoErr, "Undo failed sandbox", "sandbox", sb.id)
		}
		return "", fmt.Errorf("run sandbox of pod %s/%s: %w", config.Metadata.Namespace, config.Metadata.Name, err)
	}
	s.publish(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, sb.id, sb.id)
	s.publish(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, sb.id, sb.id)
	return sb.id, nil
}

// reserveSandbox enters sb, unless there is one for the same attempt of the same Pod.
func (s *Service) reserveSandbox(sb *sandbox) error {
	meta := sb.entry.Config.Message.Metadata
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.sandboxes {
		o := other.get().Config.Message.Metadata
		if o.Uid == meta.Uid && o.Name == meta.Name && o.Namespace == meta.Namespace && o.Attempt == meta.Attempt {
			return status.Errorf(codes.AlreadyExists, "sandbox %s_%s_%s_%d exists as %s",
				meta.Name, meta.Namespace, meta.Uid, meta.Attempt, other.id)
		}
	}
	s.sandboxes[sb.id] = sb
	return nil
}

// buildSandbox does the steps of making a sandbox. eraseSandbox undoes them, whichever were done.
func (s *Service) buildSandbox(ctx context.Context, sb *sandbox, sysctls []oci.Sysctl) error {
	e := sb.get()
	if err := createJournal(s.sandboxFile(sb.id), &e); err != nil {
		return err
	}
	if err := s.halt("sandbox journal"); err != nil {
		return err
	}
	if err := makeRunDir(s.sandboxRun(sb.id), e.users()); err != nil {
		return err
	}
	if err := s.makeNamespaces(&e, sysctls); err != nil {
		return err
	}
	if err := s.halt("sandbox namespaces"); err != nil {
		return err
	}
	if !e.hostNetwork() {
		ips, err := s.cfg.Network.Setup(ctx, sb.id, s.nsPath(sb.id, "net"), e.Config.Message.PortMappings)
		if err != nil {
			return fmt.Errorf("failed to setup network for sandbox %q: %w", sb.id, err)
		}
		e.IPs = ips
		if err := s.halt("sandbox network"); err != nil {
			return err
		}
	}
	if err := mountMemory(s.memoryPath(sb.id), e.users(), !e.hostIPC()); err != nil {
		return err
	}
	if err := s.writeSandboxFiles(&e); err != nil {
		return err
	}
	if e.Pause {
		if err := s.startPause(ctx, &e); err != nil {
			return err
		}
		if err := s.halt("sandbox pause"); err != nil {
			return err
		}
	}
	return s.changeSandbox(sb, func(entry *sandboxEntry) { entry.IPs, entry.Phase = e.IPs, phaseReady })
}

// writeSandboxFiles writes the files that are mounted into every container.
func (s *Service) writeSandboxFiles(e *sandboxEntry) error {
	hostname, err := e.hostname()
	if err != nil {
		return err
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read the machine's /etc/hosts: %w", err)
	}
	resolv := resolvConf(e.Config.Message.DnsConfig)
	if e.Config.Message.DnsConfig == nil {
		if resolv, err = os.ReadFile("/etc/resolv.conf"); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("read the machine's /etc/resolv.conf: %w", err)
		}
	}
	for name, body := range map[string][]byte{"hostname": []byte(hostname + "\n"), "hosts": hosts, "resolv.conf": resolv} {
		// The containers' users read them, whatever the umask here.
		path := filepath.Join(s.memoryPath(e.ID), name)
		if err := os.WriteFile(path, body, 0o644); err != nil {
			return fmt.Errorf("write the sandbox's %s: %w", name, err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return fmt.Errorf("write the sandbox's %s: %w", name, err)
		}
	}
	return nil
}

// hostname is the Pod's name for itself; on the machine's network it is the machine's.
func (e *sandboxEntry) hostname() (string, error) {
	if name := e.Config.Message.Hostname; name != "" && !e.hostNetwork() {
		return name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("get hostname: %w", err)
	}
	return name, nil
}

func resolvConf(dns *runtimeapi.DNSConfig) []byte {
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Searches, " "))
	}
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return []byte(b.String())
}
