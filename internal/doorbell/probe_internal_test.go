package doorbell

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestProbe checks when a probe that has not arrived ends the listener's session: only if
// it was sent, or if the connection was not proved before.
func TestProbe(t *testing.T) {
	t.Parallel()
	now := time.Now()
	busy := fmt.Errorf("%w: %w", ErrBusy, context.DeadlineExceeded)
	for _, test := range []struct {
		name   string
		sent   *sentProbe // nil if the outcome is unknown yet
		proved bool
		want   string // in the error; empty if the session goes on
		waits  time.Duration
	}{
		{"no connection, at first", &sentProbe{err: busy}, false, "no free connection", 0},
		{"no connection, once proved", &sentProbe{err: busy}, true, "", 0},
		{"nothing known, at first", nil, false, "no free connection", 0},
		{"nothing known, once proved", nil, true, "", 0},
		{"a closed pool", &sentProbe{err: errors.New("closed pool")}, true, "closed pool", 0},
		{"refused, once proved", &sentProbe{err: errors.New("a standby")}, true, "a standby", 0},
		{"sent and lost, at first", &sentProbe{at: now.Add(-statementTimeout)}, false, "does not arrive", 0},
		{"sent and lost, once proved", &sentProbe{at: now.Add(-statementTimeout)}, true, "does not arrive", 0},
		{"sent late, and under way", &sentProbe{at: now.Add(-time.Second)}, true, "", statementTimeout - time.Second},
	} {
		l := listener{probe: "p", probeEnds: now, probeSent: make(chan sentProbe, 1)}
		if test.sent != nil {
			l.probeSent <- *test.sent
		}
		if err := l.checkProbe(now.Add(-1), test.proved); err != nil {
			t.Errorf("%s: got error %v before the deadline, want none", test.name, err)
		}
		err := l.checkProbe(now, test.proved)
		switch {
		case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: got error %v, want one with %q", test.name, err, test.want)
		case test.waits > 0 && !l.probeEnds.Equal(now.Add(test.waits)):
			t.Errorf("%s: new deadline: got %v, want %v", test.name, l.probeEnds.Sub(now), test.waits)
		case test.waits > 0:
			if err := l.checkProbe(l.probeEnds, test.proved); err == nil || !strings.Contains(err.Error(), "does not arrive") {
				t.Errorf("%s: got error %v at the new deadline, want one with %q", test.name, err, "does not arrive")
			}
		case err == nil && l.probe != "":
			t.Errorf("%s: the probe is still expected", test.name)
		}
	}
}
