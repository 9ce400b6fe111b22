package resource

import (
	"bytes"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// message is what types with a protobuf encoding have. Two encodings of the same are the same bytes.
type message interface {
	Size() int
	MarshalToSizedBuffer(into []byte) (int, error)
}

// Equal says whether two parts of objects, given by pointers, mean the same: it is Semantic.DeepEqual, in a tenth of
// the time where they do and have a protobuf encoding.
func Equal(a, b any) bool {
	return sameEncoding(a, b) || apiequality.Semantic.DeepEqual(a, b)
}

func sameEncoding(a, b any) bool {
	x, ok := a.(message)
	if !ok {
		return false
	}
	y, ok := b.(message)
	if !ok {
		return false
	}
	size := x.Size()
	if y.Size() != size {
		return false
	}
	buffer := make([]byte, 2*size)
	if n, err := x.MarshalToSizedBuffer(buffer[:size]); err != nil || n != size {
		return false
	}
	if n, err := y.MarshalToSizedBuffer(buffer[size:]); err != nil || n != size {
		return false
	}
	return bytes.Equal(buffer[:size], buffer[size:])
}
