package framework

// Tally counts some Pods by node, and by the value that a label of their nodes has: by domain.
type Tally struct {
	key     string
	byNode  map[*Node]int
	byValue map[string]int
	// domains says how many domains have a count, for each count but zero; smallest is the smallest of these, zero where
	// it has to be looked for.
	domains  map[int]int
	smallest int
}

func newTally(key string) Tally {
	return Tally{key: key, byNode: map[*Node]int{}, byValue: map[string]int{}, domains: map[int]int{}}
}

// On is how many are on the node.
func (t *Tally) On(n *Node) int { return t.byNode[n] }

// Near is how many are in the node's domain; ok says whether it is in one.
func (t *Tally) Near(n *Node) (count int, ok bool) {
	value, ok := n.Node.Labels[t.key]
	return t.byValue[value], ok
}

// Each calls visit with every node that has any.
func (t *Tally) Each(visit func(n *Node, count int)) {
	for n, count := range t.byNode {
		visit(n, count)
	}
}

// Empty says whether no domain has any.
func (t *Tally) Empty() bool { return len(t.byValue) == 0 }

// least is the smallest count of a domain, of so many domains in all.
func (t *Tally) least(all int) int {
	if all > len(t.byValue) {
		return 0
	}
	if t.smallest == 0 {
		for count := range t.domains {
			if t.smallest == 0 || count < t.smallest {
				t.smallest = count
			}
		}
	}
	return t.smallest
}

// add counts d more Pods on the node.
func (t *Tally) add(n *Node, d int) {
	if t.byNode[n] += d; t.byNode[n] == 0 {
		delete(t.byNode, n)
	}
	if n.Node == nil {
		return
	}
	if value, ok := n.Node.Labels[t.key]; ok {
		t.addValue(value, d)
	}
}

func (t *Tally) addValue(value string, d int) {
	t.smallest = 0
	was := t.byValue[value]
	now := was + d
	if was != 0 {
		if t.domains[was]--; t.domains[was] == 0 {
			delete(t.domains, was)
		}
	}
	if now == 0 {
		delete(t.byValue, value)
		return
	}
	t.byValue[value] = now
	t.domains[now]++
}

// relabel takes in that the node's labels are others now; nil is those of a node that is not known.
func (t *Tally) relabel(n *Node, old, new map[string]string) {
	count := t.byNode[n]
	if count == 0 {
		return
	}
	was, had := old[t.key]
	now, has := new[t.key]
	if had == has && was == now {
		return
	}
	if had {
		t.addValue(was, -count)
	}
	if has {
		t.addValue(now, count)
	}
}
