// Command webhook is an admission webhook as others write them, to run in a Pod: over TLS with a certificate from a mounted Secret, it
// refuses what is called "refused" on /refuse, changes ConfigMaps and custom resources on /change, and never answers on /silent.
//
//	webhook CERTIFICATES
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: webhook CERTIFICATES")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "webhook:", err)
		os.Exit(1)
	}
}

// serve answers until the process is told to end.
func serve(certificates string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	mux := http.NewServeMux()
	mux.Handle("/refuse", hook(refuse))
	mux.Handle("/change", hook(change))
	mux.HandleFunc("/silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: ":8443", ReadHeaderTimeout: 10 * time.Second, Handler: mux}
	failed := make(chan error, 1)
	go func() {
		failed <- server.ListenAndServeTLS(filepath.Join(certificates, "tls.crt"), filepath.Join(certificates, "tls.key"))
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	if err := server.Close(); err != nil {
		return err
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// hook answers reviews.
func hook(answer func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, fmt.Sprintf("read a review with a request: %v", err), http.StatusBadRequest)
			return
		}
		fmt.Println(r.URL.Path, review.Request.Operation, review.Request.Kind.Kind, review.Request.SubResource, review.Request.Name)
		review.Response = answer(review.Request)
		review.Response.UID = review.Request.UID
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			fmt.Fprintln(os.Stderr, "answer:", err)
		}
	})
}

// refuse says no to names that ask for it, and to whoever wants to be attached to a container; it warns about the others.
func refuse(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	if r.Name == "refused" || r.SubResource == "attach" {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "the webhook refuses " + r.Name, Code: http.StatusForbidden}}
	}
	return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"the webhook has seen " + r.Name}}
}

// change adds to what it is asked about; what it adds to a custom resource besides its size is in no schema.
func change(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	patch := `[{"op":"add","path":"/data","value":{"changed":"yes"}}]`
	if r.Kind.Kind != "ConfigMap" {
		patch = `[{"op":"add","path":"/spec/size","value":7},{"op":"add","path":"/spec/taste","value":"sweet"}]`
	}
	kind := admissionv1.PatchTypeJSONPatch
	return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(patch), PatchType: &kind}
}
