package disk

import (
	"encoding/binary"
	"errors"

	"github.com/peapod/peapod/store/mvcc"
)

// Keys in the database: one byte that says what it is, then the rest.
const (
	keyMeta  = 'm'
	keyValue = 'v'
)

// revisionKey holds the latest revision, in 8 bytes, big endian.
var revisionKey = []byte{keyMeta, 'r'}

var errValue = errors.New("the value's header is damaged")

// appendKey appends the database key of key to dst.
func appendKey(dst []byte, key string) []byte { return append(append(dst, keyValue), key...) }

// AppendHeader appends what precedes the data in a stored value: one header and the data are what DecodeValue takes apart.
func AppendHeader(dst []byte, v *mvcc.Value) []byte {
	dst = binary.AppendUvarint(dst, uint64(v.Create))
	dst = binary.AppendUvarint(dst, uint64(v.Mod))
	dst = binary.AppendUvarint(dst, uint64(v.Version))
	return binary.AppendVarint(dst, v.Expires)
}

// DecodeValue takes a stored value apart. It copies both key and value.
func DecodeValue(key, stored []byte) (*mvcc.Value, error) {
	var n [3]uint64
	for i := range n {
		u, size := binary.Uvarint(stored)
		if size <= 0 {
			return nil, errValue
		}
		n[i], stored = u, stored[size:]
	}
	expires, size := binary.Varint(stored)
	if size <= 0 {
		return nil, errValue
	}
	return &mvcc.Value{
		Key:     string(key),
		Data:    append(make([]byte, 0, len(stored)-size), stored[size:]...),
		Create:  int64(n[0]),
		Mod:     int64(n[1]),
		Version: int64(n[2]),
		Expires: expires,
	}, nil
}
