package nft

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
)

const (
	// elementsPerMessage keeps a message below the 64 KiB that a netlink attribute can have.
	elementsPerMessage = 400
	// dynamicSize bounds what rules put into a set.
	dynamicSize = 1 << 17
	// socketBuffer takes the transaction of some ten thousand elements and its answers.
	socketBuffer = 16 << 20
)

// Applier makes the kernel's tables as described, in the network namespace of its caller's thread. It remembers what it
// applied and trusts that nobody else changes those tables; a transaction that fails because somebody did is repeated as a
// replacement. It is safe for concurrent use.
type Applier struct {
	mu      sync.Mutex
	applied map[string]*Table
}

// Apply changes the tables in one transaction. A table that is unchanged costs nothing.
func (a *Applier) Apply(desired ...*Table) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range desired {
		if err := t.validate(); err != nil {
			return err
		}
	}
	err := a.transact(desired)
	if err == nil || !a.knowsAny(desired) {
		return err
	}
	// Somebody changed a table of ours: start from nothing.
	for _, t := range desired {
		delete(a.applied, t.Name)
	}
	if again := a.transact(desired); again != nil {
		return errors.Join(err, again)
	}
	return nil
}

func (a *Applier) knowsAny(tables []*Table) bool {
	for _, t := range tables {
		if a.applied[t.Name] != nil {
			return true
		}
	}
	return false
}

func (a *Applier) transact(desired []*Table) error {
	var changes []change
	for _, t := range desired {
		c, err := diff(a.applied[t.Name], t)
		if err != nil {
			return err
		}
		changes = append(changes, c...)
	}
	if len(changes) == 0 {
		return nil
	}
	if err := commit(changes); err != nil {
		return err
	}
	if a.applied == nil {
		a.applied = map[string]*Table{}
	}
	for _, t := range desired {
		a.applied[t.Name] = t.clone()
	}
	return nil
}

// Delete removes the tables of those names, whoever made them. Names without a table are no error.
func (a *Applier) Delete(names ...string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var changes []change
	for _, name := range names {
		changes = append(changes, change{kind: deleteTable, table: &Table{Name: name}})
		delete(a.applied, name)
	}
	return commit(changes)
}

func commit(changes []change) error {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Without the privilege to exceed the system's limit the limit has to do; small transactions fit anyway.
		if err := c.SetWriteBuffer(socketBuffer); err != nil {
			return err
		}
		return c.SetReadBuffer(socketBuffer)
	}))
	if err != nil {
		return fmt.Errorf("open nftables socket: %w", err)
	}
	for _, c := range changes {
		if err := c.emit(conn); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("commit nftables transaction of %d changes: %w", len(changes), err)
	}
	return nil
}

func (c *change) emit(conn *nftables.Conn) error {
	table := &nftables.Table{Name: c.table.Name, Family: nftables.TableFamilyINet}
	switch c.kind {
	case deleteTable:
		// Adding it first makes the deletion of an absent table no error.
		conn.AddTable(table)
		conn.DelTable(table)
		return nil
	case replaceTable:
		conn.AddTable(table)
		conn.DelTable(table)
		conn.AddTable(table)
		return emitContent(conn, table, c.table)
	case addChain:
		conn.AddChain(chainOf(table, c.chain))
		return nil
	case deleteChain:
		conn.DelChain(chainOf(table, c.chain))
		return nil
	case addSet:
		if err := conn.AddSet(setOf(table, c.set), nil); err != nil {
			return fmt.Errorf("describe set %s: %w", c.set.Name, err)
		}
		return nil
	case replaceRules:
		chain := chainOf(table, c.chain)
		conn.FlushChain(chain)
		emitRules(conn, chain, c.chain.Rules)
		return nil
	case addElements:
		return emitElements(conn.SetAddElements, setOf(table, c.set), c.set, c.keys)
	case deleteElements:
		return emitElements(conn.SetDeleteElements, setOf(table, c.set), c.set, c.keys)
	}
	return fmt.Errorf("unknown nftables change %d", c.kind)
}

func emitContent(conn *nftables.Conn, table *nftables.Table, t *Table) error {
	for i := range t.Chains {
		conn.AddChain(chainOf(table, &t.Chains[i]))
	}
	for i := range t.Sets {
		s := &t.Sets[i]
		set := setOf(table, s)
		if err := conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("describe set %s: %w", s.Name, err)
		}
		if err := emitElements(conn.SetAddElements, set, s, sortedKeys(s.Elements)); err != nil {
			return err
		}
	}
	for i := range t.Chains {
		emitRules(conn, chainOf(table, &t.Chains[i]), t.Chains[i].Rules)
	}
	return nil
}

func chainOf(table *nftables.Table, c *Chain) *nftables.Chain {
	chain := &nftables.Chain{Table: table, Name: c.Name}
	if c.Hook != nil {
		chain.Type, chain.Hooknum, chain.Priority = c.Hook.Type, &c.Hook.Hook, &c.Hook.Priority
	}
	return chain
}

func emitRules(conn *nftables.Conn, chain *nftables.Chain, rules []Rule) {
	for _, r := range rules {
		rule := &nftables.Rule{Table: chain.Table, Chain: chain, Exprs: r.Exprs}
		if r.Comment != "" {
			rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Comment)
		}
		conn.AddRule(rule)
	}
}

func setOf(table *nftables.Table, s *Set) *nftables.Set {
	set := &nftables.Set{Table: table, Name: s.Name, KeyType: join(s.Key), Concatenation: len(s.Key) > 1}
	if s.Dynamic {
		set.Dynamic, set.HasTimeout, set.Size = true, true, dynamicSize
	}
	switch {
	case s.Verdicts:
		set.IsMap, set.DataType = true, nftables.TypeVerdict
	case len(s.Data) > 0:
		set.IsMap, set.DataType = true, join(s.Data)
	}
	return set
}

func join(types []nftables.SetDatatype) nftables.SetDatatype {
	if len(types) == 1 {
		return types[0]
	}
	return nftables.MustConcatSetType(types...)
}

type elementCall func(*nftables.Set, []nftables.SetElement) error

func emitElements(call elementCall, set *nftables.Set, s *Set, keys []string) error {
	for len(keys) > 0 {
		n := min(len(keys), elementsPerMessage)
		elements := make([]nftables.SetElement, n)
		for i, key := range keys[:n] {
			value := s.Elements[key]
			elements[i].Key = []byte(key)
			switch {
			case s.Verdicts:
				elements[i].VerdictData = &expr.Verdict{Kind: value.Verdict, Chain: value.Chain}
			case len(s.Data) > 0:
				elements[i].Val = []byte(value.Data)
			}
		}
		if err := call(set, elements); err != nil {
			return fmt.Errorf("describe elements of set %s: %w", s.Name, err)
		}
		keys = keys[n:]
	}
	return nil
}

// Names returns the names of all inet tables that begin with prefix.
func Names(prefix string) ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables socket: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	var names []string
	for _, t := range tables {
		if strings.HasPrefix(t.Name, prefix) {
			names = append(names, t.Name)
		}
	}
	return names, nil
}
