package main

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftWatch counts what the kernel tells of the changes of one nftables table: a message for each rule, chain, set or element
// that comes or goes.
type nftWatch struct {
	conn     *netlink.Conn
	messages atomic.Int64
	closing  atomic.Bool
	// ended has the error that ended the count, nil if that was close.
	ended chan error
}

// nftWatchBuffer takes the messages of a table of some 5,000 Services that is made anew in one transaction.
const nftWatchBuffer = 64 << 20

// watchTable begins to count.
func watchTable(name string) (*nftWatch, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{})
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	if err := errors.Join(conn.SetReadBuffer(nftWatchBuffer), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return nil, errors.Join(fmt.Errorf("watch nftables: %w", err), conn.Close())
	}
	w := &nftWatch{conn: conn, ended: make(chan error, 1)}
	go func() { w.ended <- w.count(name) }()
	return w, nil
}

func (w *nftWatch) count(name string) error {
	for {
		messages, err := w.conn.Receive()
		if err != nil && w.closing.Load() {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch nftables: %w", err)
		}
		for _, m := range messages {
			if tableOf(m) == name {
				w.messages.Add(1)
			}
		}
	}
}

// tableOf is the table that a message is about: in every kind of message but that of a new generation it is the first
// attribute after nfnetlink's header of four bytes.
func tableOf(m netlink.Message) string {
	const header, tableAttribute = 4, 1
	if uint16(m.Header.Type)&0xff == unix.NFT_MSG_NEWGEN || len(m.Data) < header {
		return ""
	}
	d, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil || !d.Next() || d.Type() != tableAttribute {
		return ""
	}
	return d.String()
}

// close ends the count; its error says that not everything was counted.
func (w *nftWatch) close() error {
	w.closing.Store(true)
	err := w.conn.Close()
	return errors.Join(err, <-w.ended)
}
