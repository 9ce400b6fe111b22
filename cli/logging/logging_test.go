package logging

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// What libraries say at every start is left out, and nothing else.
func TestQuiet(t *testing.T) {
	const head = "1122 14:39:48.578268   22477 "
	for line, want := range map[string]bool{
		"I" + head + "handler.go:309] Adding GroupVersion apps v1 to ResourceManager\n":                                  false,
		"W" + head + "genericapiserver.go:798] Skipping API apiextensions.k8s.io/v1beta1 because it has no resources.\n": false,
		"I" + head + "tlsconfig.go:243] \"Starting DynamicServingCertificateController\"\n":                              false,
		"I" + head + "naming_controller.go:316] Shutting down NamingConditionController\n":                               false,
		"E" + head + "handler.go:309] Adding GroupVersion apps v1 failed\n":                                              true,
		"I" + head + "handler.go:309] something else\n":                                                                  true,
		"I" + head + "daemon.go:60] \"Starting \"\n":                                                                     true,
		"panic: handler.go] Adding GroupVersion \n":                                                                      true,
		"] \n": true, "": true,
	} {
		var out bytes.Buffer
		if n, err := (quiet{&out}).Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("%q: %d, %v", line, n, err)
		}
		if got := out.Len() > 0; got != (want && line != "") {
			t.Errorf("written is %v: %q", got, line)
		}
	}
}

// Each line is written once, whatever its severity, and the level counts.
func TestStart(t *testing.T) {
	var out bytes.Buffer
	if err := Level(2).Start(&out); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Level(0).Start(t.Output()); err != nil {
			t.Error(err)
		}
	})
	log := klog.FromContext(t.Context())
	log.Info("one")
	log.V(2).Info("two")
	log.V(3).Info("three")
	log.Error(errors.New("why"), "four")
	klog.Warning("five")
	klog.Flush()
	if lines := strings.Count(out.String(), "\n"); lines != 4 || strings.Contains(out.String(), "three") || !strings.Contains(out.String(), `"four" err="why"`) {
		t.Errorf("logged:\n%s", out.String())
	}
}
