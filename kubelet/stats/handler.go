package stats

import (
	"encoding/json"
	"net/http"
	"strconv"

	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// SummaryHandler serves /stats/summary. The query only_cpu_and_memory=true asks
// for those alone.
func (p *Provider) SummaryHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ask := p.Summary
		if v := r.URL.Query().Get("only_cpu_and_memory"); v != "" {
			only, err := strconv.ParseBool(v)
			if err != nil {
				http.Error(w, "invalid value of only_cpu_and_memory: must be true or false", http.StatusBadRequest)
				return
			}
			if only {
				ask = p.Usage
			}
		}
		s, err := ask(r.Context())
		if err != nil {
			klog.FromContext(r.Context()).Error(err, "Measuring for the summary failed")
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, r, s)
	})
}

func reply(w http.ResponseWriter, r *http.Request, s *statsapi.Summary) {
	body, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(body); err != nil {
		klog.FromContext(r.Context()).V(4).Info("Summary was not read to its end", "err", err)
	}
}
