package criconfig

import "strings"

// Expand replaces $(NAME) by what lookup knows; what it does not know stays as
// it is, and $$ is a literal $.
func Expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+3+end])
			}
			i += 2 + end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// ExpandAll expands a command line by an environment.
func ExpandAll(words []string, env map[string]string) []string {
	var out []string
	for _, w := range words {
		out = append(out, Expand(w, func(n string) (string, bool) { v, ok := env[n]; return v, ok }))
	}
	return out
}
