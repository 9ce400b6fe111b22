package image

import (
	"context"
	"io"
	"sync"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// withLibraryLog makes the image libraries, which log through logrus by the context, log through klog instead: warnings as
// messages, for they are said nowhere else; errors, which are returned to us as well, and the rest at verbosity 5.
func withLibraryLog(ctx context.Context) context.Context {
	target := klog.FromContext(ctx)
	// What they log without a context is about features that this machine lacks and they do without.
	quietOnce.Do(func() { log.L = logrus.NewEntry(libraryLogger(target.V(5), logrus.PanicLevel)) })
	return log.WithLogger(ctx, logrus.NewEntry(libraryLogger(target, logrus.WarnLevel)))
}

// quietOnce: the libraries have one logger for the process.
var quietOnce sync.Once

func libraryLogger(target klog.Logger, loud logrus.Level) *logrus.Logger {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	logger.SetLevel(logrus.InfoLevel)
	if !target.V(5).Enabled() {
		logger.SetLevel(logrus.WarnLevel)
	}
	logger.AddHook(klogHook{target, loud})
	return logger
}

// klogHook passes entries on: those of level loud as they are, all others at verbosity 5.
type klogHook struct {
	target klog.Logger
	loud   logrus.Level
}

func (h klogHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h klogHook) Fire(e *logrus.Entry) error {
	keysAndValues := make([]any, 0, 2*len(e.Data)+2)
	keysAndValues = append(keysAndValues, "message", e.Message)
	for key, value := range e.Data {
		keysAndValues = append(keysAndValues, key, value)
	}
	target := h.target
	if e.Level != h.loud {
		target = target.V(5)
	}
	target.Info("Image library reports", keysAndValues...)
	return nil
}
