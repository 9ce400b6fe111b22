package e2e

import "testing"

// A RuntimeClass stands for a handler of the runtime, by whatever name; one that the runtime does not have is told of.
func TestRuntimeClassHandler(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	good, bad := s.name+"-good", s.name+"-bad"
	t.Cleanup(func() { s.try("delete", "runtimeclass", good, bad, "--wait=false") })
	s.apply(`
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: ` + good + `}
handler: peapod
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: ` + bad + `}
handler: unheard
`)
	s.apply(script("good", "sleep 1000000", "runtimeClassName: "+good, "") + script("bad", "sleep 1000000", "runtimeClassName: "+bad, ""))
	s.ready("good")
	s.event("bad", "FailedCreatePodSandBox", `no runtime for "unheard" is configured`)
}
