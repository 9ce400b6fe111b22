package framework

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Index answers how many Pods of some kind are in each domain, without looking at Pods that have not changed: each answer
// is worked out once and then follows every Pod that comes, goes or is tried somewhere.
type Index struct {
	namespaces func(string) map[string]string
	// nodes are all, those that are only known by their Pods too; known is how many others there are.
	nodes map[*Node]bool
	known int
	// questions are the counts of Pods that terms match, groups those of Pods that have a term themselves.
	questions lookup[*question]
	groups    lookup[*group]
	// topologies are the domains of each label that was asked for, by how many nodes each has; labelled is how many nodes
	// have the label.
	topologies map[string]map[string]int
	labelled   map[string]int
	// images is how many nodes have an image.
	images map[string]int
	// marks are the bits by which nodes say that they have a pair.
	marks map[labelPair]uint64
	asked uint64
}

// maxQuestions bounds the answers that are kept; the half that was not asked for longest goes.
const maxQuestions = 10_000

// question is: how many Pods that all terms match, in each domain of the first one's topology.
type question struct {
	Tally
	terms []Term
	// alive leaves out Pods that are being deleted.
	alive bool
	asked uint64
}

func (q *question) counts(p *Pod, namespaces func(string) map[string]string) bool {
	if q.alive && p.DeletionTimestamp != nil {
		return false
	}
	for i := range q.terms {
		if !q.terms[i].Matches(p.Pod, namespaces) {
			return false
		}
	}
	return true
}

// group are the Pods that have a term themselves.
type group struct {
	Tally
	term   Term
	kind   groupKind
	weight int64
}

type groupKind int

const (
	refusing groupKind = iota
	requiring
	preferring
)

// requiredWeight is what a required affinity of a Pod that runs counts for when nodes are compared.
const requiredWeight = 1

// lookup finds what may concern a Pod by one of the Pod's labels.
type lookup[T comparable] struct {
	byID   map[string]T
	byPair map[labelPair]map[T]bool
	// any concerns Pods whatever their labels.
	any map[T]bool
}

func newLookup[T comparable]() lookup[T] {
	return lookup[T]{byID: map[string]T{}, byPair: map[labelPair]map[T]bool{}, any: map[T]bool{}}
}

func (l *lookup[T]) put(id string, entry T, pairs []labelPair) {
	l.byID[id] = entry
	if pairs == nil {
		l.any[entry] = true
	}
	for _, pair := range pairs {
		if l.byPair[pair] == nil {
			l.byPair[pair] = map[T]bool{}
		}
		l.byPair[pair][entry] = true
	}
}

func (l *lookup[T]) remove(id string, entry T, pairs []labelPair) {
	delete(l.byID, id)
	delete(l.any, entry)
	for _, pair := range pairs {
		if delete(l.byPair[pair], entry); len(l.byPair[pair]) == 0 {
			delete(l.byPair, pair)
		}
	}
}

// concerning calls visit with what may concern a Pod with these labels, each once.
func (l *lookup[T]) concerning(labels map[string]string, visit func(T)) {
	for entry := range l.any {
		visit(entry)
	}
	if len(l.byPair) == 0 {
		return
	}
	// An entry has pairs of one label only, so it is met once.
	for key, value := range labels {
		for entry := range l.byPair[labelPair{key, value}] {
			visit(entry)
		}
	}
}

// NewIndex returns an index of no nodes; namespaces returns the labels of a namespace.
func NewIndex(namespaces func(string) map[string]string) *Index {
	return &Index{namespaces: namespaces, nodes: map[*Node]bool{}, questions: newLookup[*question](), groups: newLookup[*group](),
		topologies: map[string]map[string]int{}, labelled: map[string]int{}, images: map[string]int{}, marks: map[labelPair]uint64{}}
}

// Matching counts the Pods that all terms match, in each domain of the first one's topology; with alive those that are not
// being deleted. The first time it costs a look at each Pod.
func (x *Index) Matching(alive bool, terms ...Term) *Tally {
	ids := make([]string, 0, len(terms)+1)
	ids = append(ids, strconv.FormatBool(alive))
	for i := range terms {
		ids = append(ids, terms[i].id)
	}
	id := strings.Join(ids, "\x04")
	x.asked++
	if q := x.questions.byID[id]; q != nil {
		q.asked = x.asked
		return &q.Tally
	}
	if len(x.questions.byID) >= maxQuestions {
		x.forgetHalf()
	}
	q := &question{Tally: newTally(terms[0].Key), terms: terms, alive: alive, asked: x.asked}
	x.know(terms[0].Key)
	for n := range x.nodes {
		for _, p := range n.Pods {
			if q.counts(p, x.namespaces) {
				q.add(n, 1)
			}
		}
	}
	x.questions.put(id, q, terms[0].pairs)
	return &q.Tally
}

func (x *Index) forgetHalf() {
	all := slices.SortedFunc(maps.Keys(x.questions.byID), func(a, b string) int {
		return int(x.questions.byID[a].asked) - int(x.questions.byID[b].asked)
	})
	for _, id := range all[:len(all)/2] {
		q := x.questions.byID[id]
		x.questions.remove(id, q, q.terms[0].pairs)
	}
	used := map[string]bool{}
	for _, q := range x.questions.byID {
		used[q.key] = true
	}
	maps.DeleteFunc(x.topologies, func(key string, _ map[string]int) bool { return !used[key] })
	maps.DeleteFunc(x.labelled, func(key string, _ int) bool { return !used[key] })
}

// Least is the smallest count of a domain of the tally's topology, and how many domains there are.
func (x *Index) Least(t *Tally) (count, domains int) {
	domains = len(x.topologies[t.key])
	return t.least(domains), domains
}

// AllHave says whether every node has the label, which Matching was asked for.
func (x *Index) AllHave(key string) bool { return x.labelled[key] == x.known }

// Refusing calls visit for each kind of Pod whose required anti-affinity p would break.
func (x *Index) Refusing(p *Pod, visit func(*Tally)) {
	x.groups.concerning(p.Labels, func(g *group) {
		if g.kind == refusing && g.term.Matches(p.Pod, x.namespaces) {
			visit(&g.Tally)
		}
	})
}

// Attracting calls visit for each kind of Pod that wants p near, or with a negative weight far, without insisting on it.
func (x *Index) Attracting(p *Pod, visit func(t *Tally, weight int64)) {
	x.groups.concerning(p.Labels, func(g *group) {
		if g.kind != refusing && g.term.Matches(p.Pod, x.namespaces) {
			visit(&g.Tally, g.weight)
		}
	})
}

// Grouped says whether any Pod has affinity or anti-affinity.
func (x *Index) Grouped() bool { return len(x.groups.byID) > 0 }

// WithImage is how many nodes have the image.
func (x *Index) WithImage(name string) int { return x.images[name] }

// NamespaceChanged forgets what depended on the labels of namespaces.
func (x *Index) NamespaceChanged() {
	for id, q := range x.questions.byID {
		if slices.ContainsFunc(q.terms, func(t Term) bool { return t.SelectsNamespaces() }) {
			x.questions.remove(id, q, q.terms[0].pairs)
		}
	}
}

// count takes in that a Pod came to (d is 1) or left (-1) the node.
func (x *Index) count(n *Node, p *Pod, d int) {
	x.questions.concerning(p.Labels, func(q *question) {
		if q.counts(p, x.namespaces) {
			q.add(n, d)
		}
	})
	if p.Terms == nil {
		return
	}
	for i := range p.Terms.Far {
		x.countOwn(n, p.Terms.Far[i], refusing, 0, d)
	}
	for i := range p.Terms.Near {
		x.countOwn(n, p.Terms.Near[i], requiring, requiredWeight, d)
	}
	for i := range p.Terms.Preferred {
		x.countOwn(n, p.Terms.Preferred[i].Term, preferring, p.Terms.Preferred[i].Weight, d)
	}
}

func (x *Index) countOwn(n *Node, term Term, kind groupKind, weight int64, d int) {
	id := strconv.Itoa(int(kind)) + "\x04" + strconv.FormatInt(weight, 10) + "\x04" + term.id
	g := x.groups.byID[id]
	if g == nil {
		g = &group{Tally: newTally(term.Key), term: term, kind: kind, weight: weight}
		x.groups.put(id, g, term.pairs)
	}
	if g.add(n, d); len(g.byNode) == 0 {
		x.groups.remove(id, g, term.pairs)
	}
}

// know begins to count the domains of a label.
func (x *Index) know(key string) {
	if x.topologies[key] != nil {
		return
	}
	x.topologies[key] = map[string]int{}
	for n := range x.nodes {
		if n.Node != nil {
			x.countDomain(key, nil, n.Node.Labels)
		}
	}
}

func (x *Index) countDomain(key string, old, new map[string]string) {
	domains := x.topologies[key]
	if value, had := old[key]; had {
		x.labelled[key]--
		if domains[value]--; domains[value] == 0 {
			delete(domains, value)
		}
	}
	if value, has := new[key]; has {
		x.labelled[key]++
		domains[value]++
	}
}

// nodeChanged takes in that a node is others than old now; either may be nil. It is called after the change, and costs a
// look at each answer that is kept only where labels differ.
func (x *Index) nodeChanged(n *Node, old, new *corev1.Node) {
	if old == nil && new != nil {
		x.known++
	}
	if old != nil && new == nil {
		x.known--
	}
	was, now := labelsOf(old), labelsOf(new)
	if maps.Equal(was, now) {
		return
	}
	x.remark(n, now)
	for key := range x.topologies {
		x.countDomain(key, was, now)
	}
	for _, q := range x.questions.byID {
		q.relabel(n, was, now)
	}
	for _, g := range x.groups.byID {
		g.relabel(n, was, now)
	}
}

// Size is how many answers are kept, and how many labels whose domains are counted.
func (x *Index) Size() (questions, topologies int) { return len(x.questions.byID), len(x.topologies) }

// NodeGone forgets a node that is not known and has no Pods.
func (x *Index) NodeGone(n *Node) { delete(x.nodes, n) }

func labelsOf(n *corev1.Node) map[string]string {
	if n == nil {
		return nil
	}
	return n.Labels
}

func (x *Index) imagesChanged(old, new map[string]int64) {
	for name := range old {
		if x.images[name]--; x.images[name] == 0 {
			delete(x.images, name)
		}
	}
	for name := range new {
		x.images[name]++
	}
}
