package router

// Most is how many answers are remembered.
const Most = most

// Remembered is how many are.
func (r *Router) Remembered() (n int) {
	r.known.Load().answers.Range(func(any, any) bool { n++; return true })
	return n
}
