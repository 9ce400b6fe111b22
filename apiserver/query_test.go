package apiserver

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion/queryparams"
	"k8s.io/utils/ptr"
)

// What client-go encodes is decoded to the same.
func TestQueryRoundTrip(t *testing.T) {
	since := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Local())
	for _, c := range []struct{ in, out any }{
		{&corev1.PodLogOptions{
			Container: "c", Follow: true, SinceTime: &since, TailLines: ptr.To[int64](0), LimitBytes: ptr.To[int64](9), Stream: ptr.To("All"),
		}, &corev1.PodLogOptions{}},
		{&corev1.PodExecOptions{Stdin: true, TTY: true, Container: "c", Command: []string{"sh", "-c", "a b"}}, &corev1.PodExecOptions{}},
		{&corev1.PodPortForwardOptions{Ports: []int32{80, 443}}, &corev1.PodPortForwardOptions{}},
		{&corev1.PodProxyOptions{Path: "a/b"}, &corev1.PodProxyOptions{}},
	} {
		query, err := queryparams.Convert(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if err := decodeQuery(query, c.out); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.in, c.out); d != "" {
			t.Errorf("%T: %s", c.in, d)
		}
	}
}

func TestQueryFromHand(t *testing.T) {
	parse := func(query string) (*corev1.PodLogOptions, error) {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		o := &corev1.PodLogOptions{}
		return o, decodeQuery(values, o)
	}
	o, err := parse("follow&previous=0&timestamps=False&container=a&container=b&nonsense=1&tailLines=")
	if err != nil || !o.Follow || o.Previous || o.Timestamps || o.Container != "a" || o.TailLines != nil {
		t.Errorf("got %v, %v", o, err)
	}
	for _, bad := range []string{"tailLines=many", "tailLines=99999999999999999999", "sinceTime=yesterday"} {
		if _, err := parse(bad); err == nil || !strings.Contains(err.Error(), strings.SplitN(bad, "=", 2)[0]) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
