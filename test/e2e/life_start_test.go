package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Init containers run one after the other, each to its end, before the others start; sidecars among them run on.
func TestInitContainersAndSidecars(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("ordered", "cat /d/order; sleep 1000000", `volumes: [{name: d, emptyDir: {}}]
initContainers:
- {name: one, image: busybox, command: [sh, -c, 'echo one >> /d/order'], volumeMounts: [{name: d, mountPath: /d}]}
- name: side
  image: busybox
  restartPolicy: Always
  command: [sh, -c, 'echo side >> /d/order; touch /tmp/up; trap "exit 0" TERM; while :; do sleep 0.1; done']
  startupProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}
  volumeMounts: [{name: d, mountPath: /d}]
- {name: two, image: busybox, command: [sh, -c, 'echo two >> /d/order'], volumeMounts: [{name: d, mountPath: /d}]}
`, "volumeMounts: [{name: d, mountPath: /d}]") +
		script("unready", "true", "restartPolicy: Never\ninitContainers: [{name: init, image: busybox, command: [sh, -c, 'echo no; exit 9']}]", "") +
		script("held", "true", "initContainers: [{name: init, image: busybox, command: [sleep, '1000000']}]", "") +
		script("ending", "true", "restartPolicy: Never\ninitContainers: [{name: side, image: busybox, restartPolicy: Always, command: [sleep, '1000000']}]", ""))
	s.ready("ordered")
	s.start("logs", "-f", "ordered", "-c", "main").until("one")
	equal(t, "order", s.kubectl("exec", "ordered", "-c", "main", "--", "cat", "/d/order"), "one\nside\ntwo\n")
	p := s.get("ordered")
	for _, st := range p.Status.InitContainerStatuses {
		if (st.State.Running != nil) != (st.Name == "side") {
			t.Errorf("init container %s is %+v", st.Name, st.State)
		}
		equal(t, st.Name+" ready", st.Ready, true)
	}
	contains(t, "get pod", s.kubectl("get", "pod", "ordered"), "2/2")

	p = s.phase("unready", corev1.PodFailed)
	equal(t, "exit code", p.Status.InitContainerStatuses[0].State.Terminated.ExitCode, 9)
	equal(t, "main container waits", only(t, p).State.Waiting.Reason, "PodInitializing")
	contains(t, "get pod", s.kubectl("get", "pod", "unready"), "Init:Error")

	s.awaitPod("held", "initializing", func(p *corev1.Pod) bool {
		return len(p.Status.InitContainerStatuses) == 1 && p.Status.InitContainerStatuses[0].State.Running != nil
	})
	contains(t, "get pod", s.kubectl("get", "pod", "held"), "Init:0/1")
	s.fails([]string{"logs", "held"}, "is waiting to start: PodInitializing")

	// A Pod has ended when its own containers have; its sidecars end after them.
	p = s.phase("ending", corev1.PodSucceeded)
	if p.Status.InitContainerStatuses[0].State.Terminated == nil {
		t.Errorf("the sidecar of an ended Pod is %+v", p.Status.InitContainerStatuses[0].State)
	}
}

// applyProbed makes a Pod for each kind of probe.
func (s *space) applyProbed() {
	s.t.Helper()
	s.apply(script("liveness", "touch /tmp/alive; sleep 1000000", "",
		"livenessProbe: {exec: {command: [sh, -c, 'cat /tmp/alive']}, periodSeconds: 1, failureThreshold: 1}\n"+
			"lifecycle: {postStart: {exec: {command: [touch, /tmp/alive]}}}") +
		script("readiness", "sleep 1000000", "", "readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}") +
		script("startup", "sleep 1000000", "", "startupProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, failureThreshold: 1000}\n"+
			"livenessProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, failureThreshold: 1}") +
		script("gated", "sleep 1000000", "readinessGates: [{conditionType: example.com/open}]", "") + `
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: nginx:1.14.2
    ports: [{name: http, containerPort: 80}]
    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
    startupProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: nothing-there}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: nginx:1.14.2
    readinessProbe: {httpGet: {path: /missing, port: 80}, periodSeconds: 1}
`)
}

func TestProbes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.applyProbed()
	t.Run("liveness", func(t *testing.T) {
		s.ready("liveness")
		s.kubectl("exec", "liveness", "--", "rm", "/tmp/alive")
		s.awaitPod("liveness", "restarted", func(p *corev1.Pod) bool {
			return only(t, p).RestartCount == 1 && only(t, p).State.Running != nil
		})
		s.event("liveness", "Unhealthy", "Liveness probe failed: cat:")
		s.event("liveness", "Killing", "Container main failed liveness probe, will be restarted")
	})
	t.Run("readiness", func(t *testing.T) {
		s.event("readiness", "Unhealthy", "Readiness probe failed")
		s.kubectl("exec", "readiness", "--", "touch", "/tmp/ready")
		s.ready("readiness")
		s.kubectl("exec", "readiness", "--", "rm", "/tmp/ready")
		p := s.awaitPod("readiness", "not ready again", func(p *corev1.Pod) bool { return !only(t, p).Ready })
		equal(t, "restarts", only(t, p).RestartCount, 0)
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				equal(t, "reason", c.Reason, "ContainersNotReady")
				equal(t, "message", c.Message, "containers with unready status: [main]")
			}
		}
	})
	t.Run("startup", func(t *testing.T) {
		s.event("startup", "Unhealthy", "Startup probe failed")
		if st := only(t, s.get("startup")); *st.Started || st.Ready {
			t.Errorf("started %v and ready %v before the startup probe succeeded", *st.Started, st.Ready)
		}
		s.kubectl("exec", "startup", "--", "touch", "/tmp/started")
		s.ready("startup")
		equal(t, "restarts", only(t, s.get("startup")).RestartCount, 0)
	})
	t.Run("gate", func(t *testing.T) {
		p := s.awaitPod("gated", "running", func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && only(t, p).Ready
		})
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				equal(t, "ready", c.Status, corev1.ConditionFalse)
				equal(t, "reason", c.Reason, "ReadinessGatesNotReady")
			}
		}
		s.kubectl("patch", "pod", "gated", "--subresource=status", "--type=strategic",
			"-p", `{"status":{"conditions":[{"type":"example.com/open","status":"True"}]}}`)
		s.ready("gated")
	})
	t.Run("http", func(t *testing.T) {
		s.ready("web")
		s.event("nothing-there", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404")
	})
}

func TestQoSClasses(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for class, resources := range map[string]string{
		"BestEffort": "{}", "Burstable": "{requests: {cpu: 10m}}", "Guaranteed": "{limits: {cpu: 100m, memory: 32Mi}}",
	} {
		name := strings.ToLower(class)
		s.apply(script(name, "sleep 1000000", "", "resources: "+resources))
		s.ready(name)
		p := s.get(name)
		equal(t, "class", string(p.Status.QOSClass), class)
		if class == "Guaranteed" {
			equal(t, "request of memory", p.Spec.Containers[0].Resources.Requests.Memory().String(), "32Mi")
		}
	}
}

// The environment: plain values, references, ConfigMaps, Secrets, the Pod's own fields and resources.
func TestEnvironmentAndDownwardAPI(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("create", "configmap", "map", "--from-literal=KEY=from map", "--from-literal=not-a-name=kept")
	s.kubectl("create", "secret", "generic", "secret", "--from-literal=PASSWORD=from secret")
	s.apply(script("env", "env; echo --; cat /info/labels; echo; cat /info/cpu; echo; cat /sub/file; sleep 1000000", `volumes:
- name: info
  downwardAPI:
    items:
    - {path: labels, fieldRef: {fieldPath: metadata.labels}}
    - {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}
- {name: map, configMap: {name: map}}
- {name: d, emptyDir: {}}
`, `resources: {limits: {cpu: 250m, memory: 64Mi}}
envFrom: [{configMapRef: {name: map}}, {prefix: S_, secretRef: {name: secret}}]
env:
- {name: FIRST, value: one}
- {name: SECOND, value: '$(FIRST) and $(MISSING) and $$(FIRST)'}
- {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
- {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
- {name: ONE_KEY, valueFrom: {configMapKeyRef: {name: map, key: KEY}}}
- {name: OPTIONAL, valueFrom: {secretKeyRef: {name: none, key: none, optional: true}}}
volumeMounts:
- {name: info, mountPath: /info}
- {name: map, mountPath: /sub/file, subPath: KEY}
- {name: d, mountPath: /deep, subPathExpr: of/$(NAME)}
`))
	s.kubectl("label", "pod", "env", "color=blue")
	s.ready("env")
	p := s.get("env")
	out := s.logged("^250$", "env")
	contains(t, "environment", out, "FIRST=one\n", "SECOND=one and $(MISSING) and $(FIRST)\n", "NAME=env\n", "IP="+p.Status.PodIP+"\n",
		"NODE="+p.Spec.NodeName+"\n", "ACCOUNT=default\n", "MEMORY=67108864\n", "ONE_KEY=from map\n", "KEY=from map\n",
		"S_PASSWORD=from secret\n", "HOSTNAME=env\n", "\n250\n", "from map")
	if strings.Contains(out, "OPTIONAL=") {
		t.Errorf("a reference to an optional Secret that is not there gave a value:\n%s", out)
	}
	s.kubectl("exec", "env", "--", "sh", "-c", "touch /deep/x")
}

// `kubectl debug` adds an ephemeral container, which shares what it targets.
func TestEphemeralContainer(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("target", "exec sleep 123456789", "", ""))
	s.ready("target")
	s.kubectl("debug", "target", "--image=busybox", "--target=main", "-c", "probe", "--", "sh", "-c", "ps; echo looked; sleep 1000000")
	s.awaitPod("target", "debugged", func(p *corev1.Pod) bool {
		st := p.Status.EphemeralContainerStatuses
		return len(st) == 1 && st[0].State.Running != nil
	})
	log := s.start("logs", "-f", "target", "-c", "probe")
	log.until("sleep 123456789")
	equal(t, "restarts", only(t, s.get("target")).RestartCount, 0)
}
