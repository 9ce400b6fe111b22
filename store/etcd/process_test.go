package etcd

import (
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

// process is an etcd that can be stopped and started again with its data.
type process struct {
	t   *testing.T
	cfg *embed.Config
	run *embed.Etcd
}

func newProcess(t *testing.T, cfg *embed.Config) *process {
	t.Helper()
	p := &process{t: t, cfg: cfg}
	p.start()
	t.Cleanup(p.stop)
	return p
}

func (p *process) servers() []string { return []string{p.cfg.ListenClientUrls[0].String()} }

func (p *process) start() {
	p.t.Helper()
	run, err := embed.StartEtcd(p.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-run.Server.ReadyNotify():
	case err := <-run.Err():
		p.t.Fatal(err)
	}
	p.run = run
}

// stop may be called more than once.
func (p *process) stop() {
	if p.run != nil {
		p.run.Close()
		p.run = nil
	}
}
