package dns

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// maxKept is how long an answer of others is kept at most, in seconds: after a change elsewhere Pods learn soon.
const maxKept = 30

// answerKey is what tells questions apart.
type answerKey struct {
	name     string
	kind     uint16
	do       bool
	checking bool
}

func keyOf(q *dns.Msg) answerKey {
	k := answerKey{name: strings.ToLower(q.Question[0].Name), kind: q.Question[0].Qtype, checking: q.CheckingDisabled}
	if opt := q.IsEdns0(); opt != nil {
		k.do = opt.Do()
	}
	return k
}

// answers keeps the most recently used answers, up to a number.
type answers struct {
	size int

	mu    sync.Mutex
	byKey map[answerKey]*list.Element
	order list.List // front is the most recent
}

type keptAnswer struct {
	key   answerKey
	msg   *dns.Msg
	since time.Time
	until time.Time
}

func newAnswers(size int) *answers {
	return &answers{size: size, byKey: map[answerKey]*list.Element{}}
}

// get returns a copy of the answer with the times that are left, or nil.
func (a *answers) get(key answerKey, now time.Time) *dns.Msg {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.byKey[key]
	if e == nil {
		return nil
	}
	kept := e.Value.(*keptAnswer)
	if !now.Before(kept.until) {
		a.remove(e)
		return nil
	}
	a.order.MoveToFront(e)
	m := kept.msg.Copy()
	age := uint32(now.Sub(kept.since) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(age, h.Ttl)
			}
		}
	}
	return m
}

// put keeps an answer for as long as it says, if it is one: a name with records, or the news that there are none.
func (a *answers) put(key answerKey, m *dns.Msg, now time.Time) {
	life, ok := lifeOf(m)
	if !ok || life == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.byKey[key]; e != nil {
		a.remove(e)
	}
	for len(a.byKey) >= a.size {
		a.remove(a.order.Back())
	}
	kept := &keptAnswer{key: key, msg: m.Copy(), since: now, until: now.Add(time.Duration(life) * time.Second)}
	a.byKey[key] = a.order.PushFront(kept)
}

func (a *answers) remove(e *list.Element) {
	delete(a.byKey, e.Value.(*keptAnswer).key)
	a.order.Remove(e)
}

// lifeOf is for how many seconds an answer may be kept (RFC 2308 for those without records).
func lifeOf(m *dns.Msg) (seconds uint32, ok bool) {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0, false
	}
	seconds = maxKept
	for _, rr := range m.Answer {
		seconds, ok = min(seconds, rr.Header().Ttl), true
	}
	if ok && m.Rcode == dns.RcodeSuccess {
		return seconds, true
	}
	for _, rr := range m.Ns {
		if soa, is := rr.(*dns.SOA); is {
			return min(seconds, soa.Hdr.Ttl, soa.Minttl), true
		}
	}
	return 0, false
}
