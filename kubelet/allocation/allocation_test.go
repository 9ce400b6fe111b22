package allocation

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func requirements(requestCPU, limitCPU, memory string) (r v1.ResourceRequirements) {
	put := func(list *v1.ResourceList, name v1.ResourceName, amount string) {
		if amount == "" {
			return
		}
		if *list == nil {
			*list = v1.ResourceList{}
		}
		(*list)[name] = resource.MustParse(amount)
	}
	put(&r.Requests, v1.ResourceCPU, requestCPU)
	put(&r.Limits, v1.ResourceCPU, limitCPU)
	put(&r.Requests, v1.ResourceMemory, memory)
	put(&r.Limits, v1.ResourceMemory, memory)
	return r
}

func podWith(uid string, r v1.ResourceRequirements) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Name: "init", Image: "x"}}, Containers: []v1.Container{{Name: "main", Image: "y", Resources: r}},
	}}
}

func TestApply(t *testing.T) {
	asked := podWith("u", requirements("1", "2", "1Gi"))
	asked.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("3")}}
	has := Of(podWith("u", requirements("500m", "1", "1024Mi")))
	got := has.Apply(asked)
	if !Of(got).Equal(has) || got.Spec.Containers[0].Image != "y" || got.Spec.InitContainers[0].Image != "x" {
		t.Errorf("got %+v", got.Spec)
	}
	if Of(asked).Equal(has) || asked.Spec.Resources == nil {
		t.Error("the pod that was given changed")
	}
	if !Of(asked).Equal(Of(asked)) || !has.With("main", Of(asked)).Same(Of(asked), "main") {
		t.Error("what is the same differs")
	}
}

func TestRestarts(t *testing.T) {
	c := &v1.Container{ResizePolicy: []v1.ContainerResizePolicy{
		{ResourceName: v1.ResourceCPU, RestartPolicy: v1.NotRequired}, {ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer},
	}}
	from := requirements("1", "2", "1Gi")
	for name, test := range map[string]struct {
		to      v1.ResourceRequirements
		regular bool
		want    bool
	}{
		"cpu":       {requirements("2", "3", "1Gi"), true, false},
		"memory":    {requirements("1", "2", "2Gi"), true, true},
		"the same":  {requirements("1000m", "2", "1024Mi"), true, false},
		"init once": {requirements("1", "2", "2Gi"), false, false},
	} {
		if got := Restarts(c, test.regular, from, test.to); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestShrinks(t *testing.T) {
	from := requirements("1", "2", "1Gi")
	for _, test := range []struct {
		to   v1.ResourceRequirements
		want bool
	}{
		{from, false}, {requirements("1", "3", "2Gi"), false}, {requirements("900m", "3", "2Gi"), true},
		{requirements("1", "1", "2Gi"), true}, {requirements("1", "3", "1Mi"), true},
	} {
		if got := Shrinks(from, test.to); got != test.want {
			t.Errorf("to %v: %v", test.to, got)
		}
	}
	if !Shrinks(requirements("1", "", ""), requirements("1", "5", "")) {
		t.Error("a first limit is not seen as less")
	}
}

// TestSort has every rule decide once, and the last one where all else ties.
func TestSort(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	high := int32(10)
	request := func(uid string, from, to v1.ResourceRequirements, priority *int32, since time.Time) Request {
		p := podWith(uid, to)
		p.Spec.InitContainers, p.Spec.Priority = nil, priority
		return Request{Pod: p, Allocated: Of(podWith(uid, from)), Since: since}
	}
	small, big := requirements("1", "2", "1Gi"), requirements("2", "2", "2Gi")
	guaranteed := requirements("3", "3", "1Gi")
	want := []Request{
		request("shrinks", big, small, nil, time.Time{}),
		request("important", small, big, &high, time.Time{}),
		request("guaranteed", requirements("1", "1", "1Gi"), guaranteed, nil, time.Time{}),
		request("waits long", small, requirements("1", "2", "2Gi"), nil, at),
		request("waits", small, requirements("1", "2", "2Gi"), nil, at.Add(time.Second)),
		request("new a", small, requirements("1", "2", "2Gi"), nil, time.Time{}),
		request("new b", small, requirements("1", "2", "2Gi"), nil, time.Time{}),
	}
	for shift := range want {
		var got []Request
		for i := range want {
			got = append(got, want[(i*3+shift)%len(want)])
		}
		Sort(got)
		for i := range want {
			if got[i].Pod.UID != want[i].Pod.UID {
				t.Fatalf("order %d: %s at %d, want %s", shift, got[i].Pod.UID, i, want[i].Pod.UID)
			}
		}
	}
}

func TestMessage(t *testing.T) {
	p := podWith("u", requirements("1", "", ""))
	const want = `Pod resize Deferred: {"initContainers":[{"name":"init","resources":{}}],"containers":[{"name":"main","resources":{"requests":{"cpu":"1"}}}],"generation":7,"error":"no room"}`
	if got := Message("Pod resize Deferred", p, 7, "no room"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestStore(t *testing.T) {
	root := t.TempDir()
	s := Store{Dir: func(uid types.UID) string { return filepath.Join(root, string(uid)) }}
	if r, err := s.Load("u"); r != nil || err != nil {
		t.Fatalf("nothing: %v, %v", r, err)
	}
	for i, sync := range []bool{false, true} {
		want := &Record{Generation: int64(i), Allocated: Of(podWith("u", requirements("1", "2", "1Gi"))), Actuated: Of(podWith("u", requirements("1", "1", "1Gi")))}
		if err := s.Save("u", want, sync); err != nil {
			t.Fatal(err)
		}
		got, err := s.Load("u")
		if err != nil || got.Generation != want.Generation || !got.Allocated.Equal(want.Allocated) || !got.Actuated.Equal(want.Actuated) || got.Done() {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	same := Record{Generation: 2, Settled: 1, Allocated: Of(podWith("u", requirements("1", "", ""))), Actuated: Of(podWith("u", requirements("1000m", "", "")))}
	if same.Done() {
		t.Error("done before the Pod's cgroup is")
	}
	if same.Settled = 2; !same.Done() {
		t.Error("not done with everything in force")
	}
	if err := os.WriteFile(filepath.Join(root, "u", File), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Load("u"); r != nil || err == nil {
		t.Errorf("half a record: %v, %v", r, err)
	}
	for range 2 {
		if err := s.Remove("u"); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(root, "u")); err != nil || len(left) != 0 {
		t.Error(fmt.Sprint(left), err)
	}
}
