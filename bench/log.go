package main

import "sync"

// logTail keeps the last part of what is written to it.
type logTail struct {
	mu   sync.Mutex
	text []byte
}

// logTailBytes is how much is kept.
const logTailBytes = 4096

func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if over := len(l.text) - logTailBytes; over > 0 {
		l.text = append(l.text[:0], l.text[over:]...)
	}
	return len(p), nil
}

func (l *logTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
