package criconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// fileKey resolves a variable of an env file in a volume (KEP-3721); skip: an optional one that is not there.
func fileKey(in *EnvInput, ref *v1.FileKeySelector) (value string, skip bool, err error) {
	optional := ref.Optional != nil && *ref.Optional
	data, err := in.File(ref.VolumeName, ref.Path)
	if err != nil {
		if optional && errors.Is(err, fs.ErrNotExist) {
			return "", true, nil
		}
		return "", false, fmt.Errorf("couldn't read env file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	value, ok, err := parseEnvFile(string(data), ref.Key)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("couldn't parse env file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	case !ok && !optional:
		return "", false, fmt.Errorf("environment variable key %q not found in file %q of volume %q", ref.Key, ref.Path, ref.VolumeName)
	}
	return value, !ok, nil
}

// parseEnvFile finds a variable among lines VAR='value', the part of the shell's syntax that Kubernetes reads: values are
// quoted, so that they may have several lines and mean what they say; blank lines, and comments on lines of their own or
// after a value, are skipped. Of several assignments the first counts; what follows it is not read.
func parseEnvFile(text, key string) (value string, found bool, err error) {
	number := 0
	for text != "" {
		number++
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		line = strings.TrimLeft(line, " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		bad := func(why string) (string, bool, error) {
			return "", false, fmt.Errorf("invalid environment variable format at line %d: %s", number, why)
		}
		name, quoted, assigned := strings.Cut(line, "=")
		switch {
		case !assigned:
			return bad("missing '='")
		case name == "":
			return bad("missing variable name before '='")
		case strings.ContainsAny(name, " \t"):
			return bad("whitespace in or after the variable name")
		}
		// As in a shell, a blank ends the assignment: the value is empty.
		value, after := "", quoted
		if body, ok := strings.CutPrefix(quoted, "'"); ok {
			lines := 0
			value, after, lines, ok = quotedValue(body, text)
			if !ok {
				return bad("unterminated single quote")
			}
			for range lines {
				_, text, _ = strings.Cut(text, "\n")
			}
			number += lines
			if after = strings.TrimLeft(after, " \t\r"); after != "" && after[0] != '#' {
				return bad("unexpected text after the closing single quote")
			}
		} else if strings.TrimLeft(after, " \t\r") == after && after != "" {
			return bad("value must be enclosed in single quotes")
		}
		if name == key {
			return value, true, nil
		}
	}
	return "", false, nil
}

// quotedValue reads up to the closing quote, which may be on one of the lines in rest; lines is how many of these it took.
func quotedValue(line, rest string) (value, after string, lines int, ok bool) {
	if value, after, ok = strings.Cut(line, "'"); ok {
		return value, after, 0, true
	}
	body, tail, ok := strings.Cut(rest, "'")
	after, _, _ = strings.Cut(tail, "\n")
	return line + "\n" + body, after, strings.Count(body, "\n") + 1, ok
}
