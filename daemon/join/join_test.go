package join

import (
	"strings"
	"testing"
)

func TestParseToken(t *testing.T) {
	const good = "abcdef.0123456789abcdef.e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	token, err := ParseToken(good)
	if err != nil || token.String() != good || token.Bearer() != "abcdef.0123456789abcdef" {
		t.Errorf("%v, %v", token, err)
	}
	for _, bad := range []string{"", "abcdef.0123456789abcdef", strings.ToUpper(good), good + "0", "x" + good} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("%q is taken for a token", bad)
		} else if len(bad) > 20 && strings.Contains(err.Error(), bad) {
			t.Errorf("the error quotes the token: %v", err)
		}
	}
}

func TestParseServer(t *testing.T) {
	for text, want := range map[string]string{
		"https://10.0.0.1:6443": "https://10.0.0.1:6443", "https://api.example/": "https://api.example:443", "https://[fd00::1]:6443": "https://[fd00::1]:6443",
		"http://10.0.0.1": "", "10.0.0.1:6443": "", "https://": "", "https://a/b": "",
	} {
		u, err := ParseServer(text)
		if got := func() string {
			if err != nil {
				return ""
			}
			return u.String()
		}(); got != want {
			t.Errorf("%s: %q, want %q (%v)", text, got, want, err)
		}
	}
}
