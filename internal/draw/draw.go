// Package draw chooses numbers at random from ranges of which a part is kept for those who ask for one by name.
package draw

import "math/rand/v2"

// Part is a run of N numbers.
type Part struct{ From, N uint64 }

// KeptLast are the parts of the n numbers from from on, in the order in which they are handed out: the first of them, which
// are kept, last.
func KeptLast(from, kept, n uint64) []Part { return []Part{{from + kept, n - kept}, {from, kept}} }

// Any is a number of the part, which must not be empty.
func (p Part) Any() uint64 { return p.From + rand.Uint64N(p.N) }

// Pick chooses a free number at random, so that one just released is not soon taken again, of the first part that has one.
// It asks about each number of a part at most once.
func Pick(parts []Part, free func(uint64) bool) (number uint64, found bool) {
	for _, p := range parts {
		if p.N == 0 {
			continue
		}
		start := p.Any() - p.From
		for i := range p.N {
			if number := p.From + (start+i)%p.N; free(number) {
				return number, true
			}
		}
	}
	return 0, false
}
