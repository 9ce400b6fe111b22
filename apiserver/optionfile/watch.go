package optionfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// File is a file whose changes count while the server runs.
type File struct {
	// Flag is the option, without its dashes; Path is what it says.
	Flag, Path string
	// InForce is what the file held when it was last put in force.
	InForce []byte
	// Put puts what the file holds in force. If it returns an error, what was in force remains so, and it is called again: soon, for a
	// server that the file names may be on its way; or, for an InvalidError, when the file has changed.
	Put func(ctx context.Context, data []byte) error
	// Succeeded and Failed count, for metrics.
	Succeeded func(data []byte)
	Failed    func()
}

// InvalidError says that no time heals what is wrong with a file.
type InvalidError struct{ error }

// Invalid makes err an InvalidError; nil stays nil.
func Invalid(err error) error {
	if err == nil {
		return nil
	}
	return InvalidError{err}
}

// Unwrap returns the cause.
func (e InvalidError) Unwrap() error { return e.error }

// How long it takes until a file is put in force again that could not be.
const firstRetry, lastRetry = time.Second, time.Minute

// Watch has each change of the file put in force, that since it was first read too, until ctx ends. What cannot be is logged.
func (f *File) Watch(ctx context.Context) error {
	path, err := filepath.Abs(f.Path)
	if err != nil {
		return fmt.Errorf("watch --%s %q: %w", f.Flag, f.Path, err)
	}
	changes, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch --%s: %w", f.Flag, err)
	}
	// The directory: editors and configuration management put a new file, or a link to one, in the place of the old.
	if err := changes.Add(filepath.Dir(path)); err != nil {
		return errors.Join(fmt.Errorf("watch --%s: %w", f.Flag, err), changes.Close())
	}
	defer func() { _ = changes.Close() }() // ends the watch, and cannot fail in a way that matters
	logger := klog.FromContext(ctx).WithValues("option", f.Flag, "file", path)
	retry, wait := time.NewTimer(0), firstRetry
	defer retry.Stop()
	var failed *content // what could not be put in force the last time; nil: the last time went well
	for {
		again := false
		select {
		case <-ctx.Done():
			return nil
		case <-changes.Events:
		case err := <-changes.Errors:
			logger.Error(err, "Changes of the file may have been missed")
		case <-retry.C:
			again = true
		}
		now := read(path)
		if failed != nil && now.equal(*failed) && !again {
			continue // another file of the directory
		}
		retry.Stop()
		if now.err == nil && bytes.Equal(now.data, f.InForce) {
			failed = nil
			continue
		}
		if !again {
			wait = firstRetry
		}
		err := f.put(ctx, now)
		if err == nil {
			failed = nil
			logger.Info("The file has changed and is in force")
			continue
		}
		failed = &now
		logger.Error(err, "The file is not in force, what it said before is")
		if !errors.As(err, &InvalidError{}) {
			retry.Reset(wait)
			wait = min(2*wait, lastRetry)
		}
	}
}

// content is what a file holds, or why that cannot be told.
type content struct {
	data []byte
	err  error
}

func read(path string) content {
	data, err := os.ReadFile(path)
	return content{data, err}
}

func (c content) equal(other content) bool {
	return bytes.Equal(c.data, other.data) && (c.err == nil) == (other.err == nil)
}

// put puts c in force.
func (f *File) put(ctx context.Context, c content) error {
	if c.err == nil {
		c.err = f.Put(ctx, c.data)
	}
	if c.err != nil {
		f.Failed()
		return c.err
	}
	f.InForce = c.data
	f.Succeeded(c.data)
	return nil
}
