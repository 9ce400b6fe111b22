package turn

import (
	"context"
	"errors"
	"testing"
)

func TestTurn(t *testing.T) {
	one, ctx := New(), t.Context()
	if err := one.Take(ctx); err != nil {
		t.Fatal(err)
	}
	why := errors.New("no more")
	ended, end := context.WithCancelCause(ctx)
	end(why)
	if err := one.Take(ended); err != why {
		t.Errorf("taken, or failed for another reason: %v", err)
	}
	got := make(chan error)
	go func() { got <- one.Take(ctx) }()
	select {
	case err := <-got:
		t.Fatalf("two have it: %v", err)
	default:
	}
	one.Give()
	if err := <-got; err != nil {
		t.Error(err)
	}
}
