package e2e

import (
	"strings"
	"testing"
)

// Claims for devices, from their template to the device that a Pod gets. No driver is there: the test says what devices there are.
func TestDeviceClaims(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		class := "gpu-" + s.name
		t.Cleanup(func() { s.kubectl("delete", "deviceclass", class, "--ignore-not-found") })
		s.kubectlIn(`{"apiVersion":"resource.k8s.io/v1","kind":"DeviceClass","metadata":{"name":"`+class+`"},
			"spec":{"selectors":[{"cel":{"expression":"device.driver == '`+class+`.example.com'"}}]}}`, "apply", "-f", "-")
		template := `{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaimTemplate","metadata":{"name":"gpus"},"spec":{"spec":{"devices":{"requests":[
			{"name":"gpu","exactly":{"deviceClassName":"` + class + `","count":2,"selectors":[{"cel":{"expression":"EXPRESSION"}}]}}]}}}}`
		s.failsIn(strings.ReplaceAll(template, "EXPRESSION", "divice"), []string{"create", "-f", "-"},
			`spec.spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: "divice": compilation failed: ERROR: <input>:1:1: undeclared reference to 'divice'`)
		s.kubectlIn(strings.ReplaceAll(template, "EXPRESSION", "true"), "apply", "--server-side", "-f", "-")

		s.kubectl("create", "quota", "devices", "--hard=count/resourceclaims.resource.k8s.io=5,"+class+".deviceclass.resource.k8s.io/devices=3")
		pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"NAME"},"spec":{"terminationGracePeriodSeconds":0,
			"resourceClaims":[{"name":"gpu","resourceClaimTemplateName":"gpus"}],
			"containers":[{"name":"web","image":"nginx:1.20.2","resources":{"claims":[{"name":"gpu"}]}}]}}`
		s.kubectlIn(strings.ReplaceAll(pod, "NAME", "web"), "apply", "-f", "-")
		s.event("web", "FailedScheduling", "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
		s.kubectl("wait", "pod/web", "--timeout=120s", "--for=jsonpath={.status.resourceClaimStatuses[0].name}=gpu")
		claim := s.kubectl("get", "pod", "web", "-o", "jsonpath={.status.resourceClaimStatuses[0].resourceClaimName}")
		equal(s.t, "claim", columns(s.kubectl("get", "resourceclaims", "--no-headers"), 2), claim+" pending")
		contains(s.t, "claim's name", claim, "web-gpu-")
		contains(s.t, "description", s.kubectl("describe", "resourceclaim", claim), class, "Pod", "web")

		// The quota has no room for another two.
		s.kubectlIn(strings.ReplaceAll(pod, "NAME", "db"), "apply", "-f", "-")
		s.event("db", "FailedResourceClaimCreation", "exceeded quota: devices, requested: "+class+".deviceclass.resource.k8s.io/devices=2, used: "+
			class+".deviceclass.resource.k8s.io/devices=2, limited: "+class+".deviceclass.resource.k8s.io/devices=3")
		s.kubectl("delete", "pod", "web", "--now")
		s.kubectl("wait", "--for=delete", "resourceclaim/"+claim, "--timeout=120s")
		s.kubectl("wait", "pod/db", "--timeout=180s", "--for=jsonpath={.status.resourceClaimStatuses[0].name}=gpu")

		// A slice is found by what it is of.
		slice := `{"apiVersion":"resource.k8s.io/v1","kind":"ResourceSlice","metadata":{"name":"` + s.name + `"},"spec":{"driver":"` + class + `.example.com",
			"pool":{"name":"pool","generation":1,"resourceSliceCount":1},"allNodes":true,"devices":[{"name":"gpu-0"},{"name":"gpu-1"}]}}`
		t.Cleanup(func() { s.kubectl("delete", "resourceslice", s.name, "--ignore-not-found") })
		s.kubectlIn(slice, "apply", "-f", "-")
		equal(s.t, "slices", columns(s.kubectl("get", "resourceslices", "--no-headers", "--field-selector=spec.driver="+class+".example.com"), 3), s.name+" "+class+".example.com pool")
		s.fails([]string{"patch", "resourceslice", s.name, "--type=merge", "-p", `{"spec":{"pool":{"name":"other"}}}`}, "spec.pool.name: Invalid value: \"other\": field is immutable")

		// Now there is what the Pod waits for.
		s.kubectl("wait", "pod/db", "--for=condition=PodScheduled", "--timeout=120s")
		claim = s.kubectl("get", "pod", "db", "-o", "jsonpath={.status.resourceClaimStatuses[0].resourceClaimName}")
		equal(s.t, "claim", columns(s.kubectl("get", "resourceclaims", "--no-headers"), 2), claim+" allocated,reserved")
		equal(s.t, "devices", s.kubectl("get", "resourceclaim", claim, "-o", "jsonpath={.status.allocation.devices.results[*].device}"), "gpu-0 gpu-1")
		equal(s.t, "user", s.kubectl("get", "resourceclaim", claim, "-o", "jsonpath={.status.reservedFor[*].name}"), "db")
	})
}
