// Package driver is a small CSI driver for tests, of which nothing is pretended: volumes are directories below one of the
// driver's, or files behind loop devices, and they are mounted with the kernel's mounts. Inline volumes are in memory and show what the
// driver was told of the Pod.
package driver

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Config says what the driver is.
type Config struct {
	Name, NodeID string
	// State is the directory that has the volumes.
	State string
	// Socket is where the driver serves, and Endpoint the same path as the kubelet sees it; Registration is a socket in the kubelet's
	// directory of plugins.
	Socket, Endpoint, Registration string
	// MaxVolumes is what the driver can attach to the node; zero stands for any number.
	MaxVolumes int64
	Topology   map[string]string
	// Lacks are capabilities of the node that the driver does not say to have.
	Lacks []csi.NodeServiceCapability_RPC_Type
	// Before, if not nil, is called with each request; its error is the answer.
	Before func(ctx context.Context, request any) error
}

// Driver is the node part of the driver.
type Driver struct {
	csi.UnimplementedNodeServer
	csi.UnimplementedIdentityServer
	registerapi.UnimplementedRegistrationServer
	cfg Config
	// Registered has what the kubelet says of the registration.
	Registered chan *registerapi.RegistrationStatus
}

// New makes a driver.
func New(cfg Config) *Driver {
	return &Driver{cfg: cfg, Registered: make(chan *registerapi.RegistrationStatus, 100)}
}

// Run serves until ctx ends. The registration's socket is removed then, as the usual registrar does.
func (d *Driver) Run(ctx context.Context) error {
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if d.cfg.Before != nil {
			if err := d.cfg.Before(ctx, request); err != nil {
				return nil, err
			}
		}
		return handle(ctx, request)
	}))
	csi.RegisterNodeServer(server, d)
	csi.RegisterIdentityServer(server, d)
	registerapi.RegisterRegistrationServer(server, d)
	ended := make(chan error, 2)
	for _, path := range []string{d.cfg.Socket, d.cfg.Registration} {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		go func() { ended <- server.Serve(l) }()
	}
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return errors.Join(<-ended, <-ended)
}

// GetInfo tells the kubelet what this plugin is.
func (d *Driver) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: d.cfg.Name, Endpoint: d.cfg.Endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus takes what came of that.
func (d *Driver) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	select {
	case d.Registered <- s:
	default:
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// NodeGetInfo says what the driver calls the node.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	out := &csi.NodeGetInfoResponse{NodeId: d.cfg.NodeID, MaxVolumesPerNode: d.cfg.MaxVolumes}
	if len(d.cfg.Topology) > 0 {
		out.AccessibleTopology = &csi.Topology{Segments: d.cfg.Topology}
	}
	return out, nil
}

// NodeGetCapabilities says that volumes are staged, measured, and expanded, as far as the driver does.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	out := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_GET_VOLUME_STATS, csi.NodeServiceCapability_RPC_EXPAND_VOLUME} {
		if slices.Contains(d.cfg.Lacks, t) {
			continue
		}
		out.Capabilities = append(out.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return out, nil
}

// content is where a volume's content is, whatever its ID is made of.
func (d *Driver) content(volume string) string {
	return filepath.Join(d.cfg.State, fmt.Sprintf("%x", sha256.Sum256([]byte(volume)))[:16])
}

// NodeStageVolume mounts a volume's directory, or attaches its file to a loop device whose node lies in the staging directory.
func (d *Driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if err := os.MkdirAll(d.cfg.State, 0o700); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	var err error
	if r.VolumeCapability.GetBlock() != nil {
		err = stageBlock(d.content(r.VolumeId)+".img", filepath.Join(r.StagingTargetPath, "device"))
	} else if err = makeVolume(d.content(r.VolumeId)); err == nil {
		err = bind(d.content(r.VolumeId), r.StagingTargetPath, false)
	}
	return &csi.NodeStageVolumeResponse{}, internal(err)
}

// makeVolume makes the directory of a volume, for any user; one that is there stays as it is.
func makeVolume(dir string) error {
	if err := os.Mkdir(dir, 0o700); errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod(dir, 0o777)
}

// NodeUnstageVolume undoes that.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return &csi.NodeUnstageVolumeResponse{}, internal(errors.Join(unstageBlock(filepath.Join(r.StagingTargetPath, "device")), unmount(r.StagingTargetPath)))
}

// NodePublishVolume mounts what is staged once more, or makes an inline volume, with file told: the context of the request.
func (d *Driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if r.VolumeContext["csi.storage.k8s.io/ephemeral"] == "true" {
		return &csi.NodePublishVolumeResponse{}, internal(publishInline(r))
	}
	if r.VolumeCapability.GetBlock() != nil {
		return &csi.NodePublishVolumeResponse{}, internal(publishBlock(filepath.Join(r.StagingTargetPath, "device"), r.TargetPath))
	}
	if err := os.Mkdir(r.TargetPath, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, internal(err)
	}
	return &csi.NodePublishVolumeResponse{}, internal(bind(r.StagingTargetPath, r.TargetPath, r.Readonly))
}

func publishInline(r *csi.NodePublishVolumeRequest) error {
	if err := os.Mkdir(r.TargetPath, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if on, err := mounted(r.TargetPath); err != nil {
		return err
	} else if !on {
		if err := unix.Mount("tmpfs", r.TargetPath, "tmpfs", 0, "mode=0755,size=1m"); err != nil {
			return err
		}
	}
	told, err := json.Marshal(r.VolumeContext)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.TargetPath, "told"), told, 0o644)
}

// NodeUnpublishVolume undoes that.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := unmount(r.TargetPath); err != nil {
		return nil, internal(err)
	}
	if err := os.Remove(r.TargetPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, internal(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeExpandVolume writes the new size, in bytes, into file size of the volume.
func (d *Driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if on, err := mounted(r.VolumePath); err != nil || !on {
		return nil, status.Errorf(codes.NotFound, "%s is not mounted: %v", r.VolumePath, err)
	}
	size := r.CapacityRange.GetRequiredBytes()
	err := os.WriteFile(filepath.Join(r.VolumePath, "size"), []byte(strconv.FormatInt(size, 10)), 0o644)
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, internal(err)
}

// NodeGetVolumeStats says how large the volume's file system is.
func (d *Driver) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(r.VolumePath, &st); err != nil {
		return nil, internal(err)
	}
	size := int64(st.Bsize)
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: int64(st.Blocks) * size,
		Available: int64(st.Bavail) * size, Used: int64(st.Blocks-st.Bfree) * size}}}, nil
}

func internal(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codes.Internal, err.Error())
}

// mounted says whether something is mounted at path itself; nothing is at one that does not exist.
func mounted(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, err
}

func bind(source, target string, readOnly bool) error {
	on, err := mounted(target)
	if err != nil {
		return err
	}
	if !on {
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", source, target, err)
		}
	}
	if readOnly {
		return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	return nil
}

func unmount(path string) error {
	for {
		on, err := mounted(path)
		if err != nil || !on {
			return err
		}
		if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}
