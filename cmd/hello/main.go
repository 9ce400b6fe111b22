// Command hello is the program of the image that Peapod carries: it greets on stdout every few seconds and answers HTTP on
// port 8080, until SIGTERM, on which it ends with status 0.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const every = 5 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	greeting := "Hello from Pod " + podName()
	server := &http.Server{
		Addr:              ":8080",
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, greeting)
		}),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		fmt.Println(greeting)
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case <-ctx.Done():
			fmt.Println("Goodbye")
			if err := server.Close(); err != nil {
				return fmt.Errorf("stop serving: %w", err)
			}
			if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve: %w", err)
			}
			return nil
		case <-ticker.C:
		}
	}
}

// podName is the name by the downward API where the Pod sets it, else the host name, which Kubernetes makes the Pod's.
func podName() string {
	if name := os.Getenv("POD_NAME"); name != "" {
		return name
	}
	name, err := os.Hostname()
	if err != nil {
		return "(unknown)"
	}
	return name
}
