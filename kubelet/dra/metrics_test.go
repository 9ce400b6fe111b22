package dra

import (
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
)

// What is asked of drivers, and what Pods have, is counted.
func TestMetrics(t *testing.T) {
	w := start(t)
	w.driver(nil)
	for _, v := range []*metrics.HistogramVec{measured().operations, measured().calls} {
		v.Reset()
	}
	g := measured()
	g.mu.Lock()
	clear(g.used) // other tests have left some
	g.inUse.Reset()
	g.mu.Unlock()
	p := user("p", "c")
	w.claim("c", nil, p)
	refused := errors.New("not now")
	w.intercept(func(string, types.UID) error { return refused })
	if err := w.dra.Prepare(t.Context(), p); err == nil {
		t.Fatal("prepared though the driver refused")
	}
	w.intercept(nil)
	if err := w.dra.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for driver, want := range map[string]float64{driverName: 1, "<any>": 1} {
		if got, err := testutil.GetGaugeMetricValue(measured().inUse.WithLabelValues(driver)); err != nil || got != want {
			t.Errorf("in use of %s: %v, %v", driver, got, err)
		}
	}
	if err := w.dra.Release(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if err := w.dra.Prepare(t.Context(), user("without")); err != nil {
		t.Fatal(err)
	}
	if measured().inUse.Delete(map[string]string{"driver_name": driverName}) {
		t.Error("the metric still has a driver that nobody uses")
	}
	for what, want := range map[[2]string]uint64{{"PrepareResources", "true"}: 1, {"PrepareResources", "false"}: 1, {"UnprepareResources", "false"}: 1} {
		if got, err := testutil.GetHistogramMetricCount(measured().operations.WithLabelValues(what[:]...)); err != nil || got != want {
			t.Errorf("%v: %v, %v, want %v", what, got, err, want)
		}
	}
	// A driver that says of a claim that it failed has answered.
	const service = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/"
	for method, want := range map[string]uint64{service + "NodePrepareResources": 2, service + "NodeUnprepareResources": 1} {
		if got, err := testutil.GetHistogramMetricCount(measured().calls.WithLabelValues(driverName, method, "OK")); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", method, got, err, want)
		}
	}
	called(driverName, "m", time.Now(), errors.New("no answer"))
	if got, err := testutil.GetHistogramMetricCount(measured().calls.WithLabelValues(driverName, "m", "Unknown")); err != nil || got != 1 {
		t.Errorf("calls that failed: %v, %v", got, err)
	}
}
