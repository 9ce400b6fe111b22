package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/store/mvcc"
)

// errNotEncoded says that a list cannot be had in its encoded form, or that it is too large for that to be wise. GetList
// gives it.
var errNotEncoded error = notEncoded{}

type notEncoded struct{}

func (notEncoded) Error() string { return "the list cannot be had in its encoded form" }

// NotEncoded tells this error from others for those who do not know this package.
func (notEncoded) NotEncoded() {}

// maxEncoded is how large an encoded list may be, in bytes: it is in memory as a whole, where a list of objects is encoded one
// by one.
const maxEncoded = 16 << 20

// GetEncodedList is GetList for a caller that wants the list only to send it as protobuf: it returns the message of the list
// that GetList would fill in, without the envelope that names its type. Objects are not encoded that need not be: what is
// stored of an object is what is sent but for the resource version. Whether that is so depends on the object, as reading
// may fill in defaults, so that each is encoded once and compared, and what came of it is remembered with the decoded object.
func (r *Resource) GetEncodedList(ctx context.Context, key string, opts storage.ListOptions) ([]byte, error) {
	if r.coder.transformer != nil {
		return nil, errNotEncoded
	}
	if _, ok := r.coder.newFunc().(message); !ok {
		return nil, errNotEncoded
	}
	l := r.lister(ctx, opts)
	l.shared, l.encoded = true, newEncodedItems(r.expectedSize(l.limit))
	var list metav1.PartialObjectMetadataList
	if err := l.list(key, opts, &list); err != nil {
		return nil, err
	}
	if l.encoded.failed {
		return nil, errNotEncoded
	}
	return l.encoded.finish(&list.ListMeta)
}

// expectedSize is about how large a list of all objects is, or of limit ones, in bytes.
func (r *Resource) expectedSize(limit int64) int64 {
	r.store.mu.RLock()
	keys, size := r.Count()
	r.store.mu.RUnlock()
	if limit > 0 && limit < keys {
		size = size / keys * limit
	}
	return size
}

// message is what types with a protobuf encoding have.
type message interface {
	runtime.Object
	Size() int
	MarshalToSizedBuffer(into []byte) (int, error)
}

// What is noted of an object's memo.
const (
	// noteAsStored: what is stored, with the resource version put in, is the object's encoding.
	noteAsStored = 1
	// noteOtherwise: it is not.
	noteOtherwise = 2
)

// encodedItems are the items of a list in the making.
type encodedItems struct {
	// list is room for what comes before the items, of headroom bytes, and the fields "items" of the list's message, in order.
	list  []byte
	count int64
	// failed says that the list cannot be made.
	failed bool
}

// headroom is how large the metadata of a list is at most, all but always: its longest part is the token to go on with.
const headroom = 2 << 10

// newEncodedItems makes room for items of size bytes, and some more, as a list that grows is copied.
func newEncodedItems(size int64) *encodedItems {
	return &encodedItems{list: make([]byte, headroom, headroom+min(size+size/16, maxEncoded))}
}

// Keys of fields of messages: number << 3 | 2, for what has a length.
const (
	firstField  = 1<<3 | 2
	secondField = 2<<3 | 2
	// resourceVersionField is ObjectMeta's.
	resourceVersionField = 6<<3 | 2
)

// addKnown adds the object of v if what is stored is known to be its encoding, and says whether it has.
func (e *encodedItems) addKnown(c *coder, v *mvcc.Value) bool {
	m := v.Memo()
	if m == nil || m.Owner != any(c) || m.Note.Load() != noteAsStored {
		return false
	}
	s, ok := cutStored(v.Data)
	if !ok {
		return false
	}
	var version [20]byte
	e.put(&s, strconv.AppendInt(version[:0], v.Mod, 10))
	return true
}

// put adds an item made of stored parts and a resource version.
func (e *encodedItems) put(s *stored, version []byte) {
	meta := s.metaSize(version)
	e.begin(1 + uvarintSize(meta) + meta + len(s.rest))
	e.list = s.appendTo(e.list, version)
}

// begin begins an item of size bytes.
func (e *encodedItems) begin(size int) {
	e.count++
	e.failed = e.failed || len(e.list)+size > maxEncoded
	e.list = append(e.list, secondField)
	e.list = binary.AppendUvarint(e.list, uint64(size))
}

// add adds obj, which v holds.
func (e *encodedItems) add(c *coder, v *mvcc.Value, obj runtime.Object) {
	msg, ok := obj.(message)
	if !ok {
		e.failed = true
		return
	}
	size := msg.Size()
	e.begin(size)
	e.list = slices.Grow(e.list, size)
	item := e.list[len(e.list) : len(e.list)+size]
	if n, err := msg.MarshalToSizedBuffer(item); err != nil || n != size {
		e.failed = true
		return
	}
	e.list = e.list[:len(e.list)+size]
	if m := v.Memo(); m != nil && m.Owner == any(c) && m.Object == any(obj) && m.Note.Load() == 0 {
		m.Note.Store(compare(v, item))
	}
}

// compare says whether what is stored as v, with its resource version put in, is encoding.
func compare(v *mvcc.Value, encoding []byte) uint32 {
	s, ok := cutStored(v.Data)
	if !ok {
		return noteOtherwise
	}
	version := strconv.AppendInt(nil, v.Mod, 10)
	if !bytes.Equal(s.appendTo(make([]byte, 0, len(encoding)), version), encoding) {
		return noteOtherwise
	}
	return noteAsStored
}

// finish returns the list's message.
func (e *encodedItems) finish(m *metav1.ListMeta) ([]byte, error) {
	meta, err := m.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode the metadata of a list: %w", err)
	}
	head := binary.AppendUvarint([]byte{firstField}, uint64(len(meta)))
	head = append(head, meta...)
	if len(head) > headroom {
		return append(head, e.list[headroom:]...), nil
	}
	begin := headroom - len(head)
	copy(e.list[begin:], head)
	return e.list[begin:], nil
}

// stored is a stored object taken apart where its resource version belongs.
type stored struct {
	// before and after are the metadata up to the resource version, which is empty in what is stored, and from there on.
	before, after []byte
	// rest is what follows the metadata.
	rest []byte
}

func (s *stored) metaSize(version []byte) int {
	return len(s.before) + 1 + uvarintSize(len(version)) + len(version) + len(s.after)
}

// appendTo appends the object with a resource version.
func (s *stored) appendTo(to, version []byte) []byte {
	to = append(to, firstField)
	to = binary.AppendUvarint(to, uint64(s.metaSize(version)))
	to = append(to, s.before...)
	to = append(to, resourceVersionField)
	to = binary.AppendUvarint(to, uint64(len(version)))
	to = append(to, version...)
	to = append(to, s.after...)
	return append(to, s.rest...)
}

// protobufPrefix begins what Kubernetes' protobuf serializer writes.
var protobufPrefix = []byte("k8s\x00")

// plainEncoding ends what the serializer writes: no content encoding and no content type but the usual.
var plainEncoding = []byte{3<<3 | 2, 0, 4<<3 | 2, 0}

// cutStored takes apart the stored bytes of an object: an envelope, whose second field is the object, whose first is its
// metadata. ok is false where they look otherwise.
func cutStored(data []byte) (s stored, ok bool) {
	envelope, ok := bytes.CutPrefix(data, protobufPrefix)
	if !ok {
		return s, false
	}
	_, envelope, ok = cutField(envelope, firstField) // what names the type
	if !ok {
		return s, false
	}
	object, encoding, ok := cutField(envelope, secondField)
	if !ok || !bytes.Equal(encoding, plainEncoding) {
		return s, false
	}
	meta, rest, ok := cutField(object, firstField)
	if !ok {
		return s, false
	}
	// Name, generated name, namespace, link and UID come before the resource version; all are there even if they are empty.
	at := meta
	for number := byte(1); number < 6; number++ {
		if _, at, ok = cutField(at, number<<3|2); !ok {
			return s, false
		}
	}
	before := meta[:len(meta)-len(at)]
	version, after, ok := cutField(at, resourceVersionField)
	if !ok || len(version) != 0 {
		return s, false
	}
	return stored{before: before, after: after, rest: rest}, true
}

// cutField takes a field with the given key off the beginning of a message.
func cutField(message []byte, key byte) (value, rest []byte, ok bool) {
	if len(message) == 0 || message[0] != key {
		return nil, nil, false
	}
	length, n := binary.Uvarint(message[1:])
	if n <= 0 || length > uint64(len(message)-1-n) {
		return nil, nil, false
	}
	begin := 1 + n
	end := begin + int(length)
	return message[begin:end], message[end:], true
}

// uvarintSize is how many bytes n takes.
func uvarintSize(n int) int { return (bits.Len64(uint64(n)|1) + 6) / 7 }
