package criconfig

import (
	"errors"
	"io/fs"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestEnvFiles(t *testing.T) {
	const text = "# comment\n\n  A='one'\nEMPTY=''\nBLANK= 'x'\nB='$HOME \\n \"' # why\nMANY='first\n# not a comment\nX=y'\nA='second'\nLAST='z'"
	for _, c := range []struct{ text, key, want, err string }{
		{text, "A", "one", ""},
		{text, "EMPTY", "", ""},
		{text, "BLANK", "", ""},
		{text, "B", `$HOME \n "`, ""},
		{text, "MANY", "first\n# not a comment\nX=y", ""},
		{text, "LAST", "z", ""},
		{"A='1'\r\nB='2'\r\n", "B", "2", ""},
		{text, "X", "", `environment variable key "X" not found in file "f" of volume "v"`},
		{"A=plain", "A", "", `couldn't parse env file "f" of volume "v": invalid environment variable format at line 1: value must be enclosed in single quotes`},
		{"A ='1'", "A", "", `couldn't parse env file "f" of volume "v": invalid environment variable format at line 1: whitespace in or after the variable name`},
		{"M='1\n2'\nwhat", "A", "", `couldn't parse env file "f" of volume "v": invalid environment variable format at line 3: missing '='`},
		{"='1'", "A", "", `couldn't parse env file "f" of volume "v": invalid environment variable format at line 1: missing variable name before '='`},
		{"A='1", "A", "", `couldn't parse env file "f" of volume "v": invalid environment variable format at line 1: unterminated single quote`},
		{"A='1'2", "A", "", `couldn't parse env file "f" of volume "v": invalid environment variable format at line 1: unexpected text after the closing single quote`},
	} {
		in := &EnvInput{File: func(volume, path string) ([]byte, error) { return []byte(c.text), nil }}
		got, skip, err := fileKey(in, &v1.FileKeySelector{VolumeName: "v", Path: "f", Key: c.key})
		message := ""
		if err != nil {
			message = err.Error()
		}
		if got != c.want || skip || message != c.err {
			t.Errorf("%s of %q: %q, %v, %s; want %q, %s", c.key, c.text, got, skip, message, c.want, c.err)
		}
	}
	missing := &EnvInput{File: func(string, string) ([]byte, error) { return nil, fs.ErrNotExist }}
	ref := &v1.FileKeySelector{VolumeName: "v", Path: "f", Key: "A"}
	if _, _, err := fileKey(missing, ref); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file that is not there: %v", err)
	}
	ref.Optional = ptr.To(true)
	if _, skip, err := fileKey(missing, ref); err != nil || !skip {
		t.Errorf("optional file that is not there: %v, %v", skip, err)
	}
}
