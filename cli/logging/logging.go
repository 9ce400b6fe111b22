// Package logging is what verbs that run in the foreground log, and where to.
package logging

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// Level is how much is logged: 0 is what an administrator wants to know, 2 what upstream's components log by default, 4 is for debugging.
type Level int

// AddFlag adds -v.
func (l *Level) AddFlag(f *pflag.FlagSet) {
	f.IntVarP((*int)(l), "v", "v", 0, "log `level`: 0, what an administrator wants to know; 2, what Kubernetes' components tell; 4, for debugging")
}

// Start has klog write to w from now on. It is called once, before anything is logged.
func (l Level) Start(w io.Writer) error {
	if l < 1 {
		w = quiet{w}
	}
	// Else klog would write each line by itself, or the same line to several outputs.
	settings := map[string]string{"v": strconv.Itoa(int(l)), "logtostderr": "false", "alsologtostderr": "false", "stderrthreshold": "FATAL", "one_output": "true"}
	flags := flag.NewFlagSet("klog", flag.ContinueOnError) // klog takes its settings by one only
	klog.InitFlags(flags)
	for name, value := range settings {
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("set up logging: %w", err)
		}
	}
	klog.SetOutput(w)
	return nil
}

// quiet leaves out what libraries say at every start and end, whatever the level: that their parts begin and stop. It gets one line with
// each Write.
type quiet struct{ io.Writer }

// chatter are the beginnings of such messages, by the file that says them.
var chatter = map[string][]string{
	"handler.go":          {"Adding GroupVersion "},
	"genericapiserver.go": {"Skipping API "},
	"controller.go":       {"Shutting down quota evaluator"},

	"tlsconfig.go":                           {starts, stops},
	"customresource_discovery_controller.go": {starts, stops},
	"naming_controller.go":                   {starts, stops},
	"nonstructuralschema_controller.go":      {starts, stops},
	"apiapproval_controller.go":              {starts, stops},
	"crd_finalizer.go":                       {starts, stops},
}

const starts, stops = "Starting ", "Shutting down "

func (q quiet) Write(line []byte) (int, error) {
	if superfluous(line) {
		return len(line), nil
	}
	return q.Writer.Write(line)
}

// superfluous says whether a line of klog's is chatter. An error is none.
func superfluous(line []byte) bool {
	head, message, ok := bytes.Cut(line, []byte("] "))
	if !ok || len(head) == 0 || head[0] != 'I' && head[0] != 'W' {
		return false
	}
	at, _, ok := bytes.Cut(head[bytes.LastIndexByte(head, ' ')+1:], []byte(":"))
	if !ok {
		return false
	}
	message = bytes.TrimPrefix(message, []byte(`"`)) // where it has keys and values
	for _, beginning := range chatter[string(at)] {
		if bytes.HasPrefix(message, []byte(beginning)) {
			return true
		}
	}
	return false
}
