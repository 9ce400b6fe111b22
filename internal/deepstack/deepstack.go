// Package deepstack has a goroutine's stack grow once instead of several times. A goroutine begins with a few kB of stack. When a
// call needs more, the runtime takes a stack of twice the size, copies what there is and corrects the pointers in every
// frame, which costs the more the deeper the call is: for a request to the API, whose goroutines get from 4 kB to 32, that
// was 7 % of its processor time. A goroutine that is known to go deep says so while there is little to copy.
package deepstack

// reserved is how much Reserve makes room for, in bytes: with what lies above it, a stack of 32 kB.
const reserved = 20 << 10

// Reserve makes room on the calling goroutine's stack for what is called next. It costs a comparison where there is room
// already.
func Reserve() { reserve(false) }

// reserve has a frame that is as large as the room. The runtime makes room for a frame before a function begins, so that
// nothing need be done with it; never is false.
//
//go:noinline
func reserve(never bool) {
	if never {
		var frame [reserved]byte
		touch(&frame)
	}
}

//go:noinline
func touch(frame *[reserved]byte) { frame[0]++ }
