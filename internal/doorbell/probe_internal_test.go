package doorbell

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestNotifyProbe looks at probes that have not arrived in time: only one that was
// sent proves anything.
func TestProbe(t *testing.T) {
	t.Parallel()
	now := time.Now()
	busy := fmt.Errorf("%w: %w", ErrBusy, context.DeadlineExceeded)
	for _, test := range []struct {
		name  string
		sent  *sentProbe // nil: nothing is known yet
		heard bool
		says  string // or nothing, if the session goes on
		waits time.Duration
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
		if err := l.checkProbe(now.Add(-1), test.heard); err != nil {
			t.Errorf("%s: error %v before the time is up", test.name, err)
		}
		err := l.checkProbe(now, test.heard)
		switch {
		case test.says == "" && err != nil, test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)):
			t.Errorf("%s: error %v, want one that says %q", test.name, err, test.says)
		case test.waits > 0 && !l.probeEnds.Equal(now.Add(test.waits)):
			t.Errorf("%s: waits until %v, want %v more", test.name, l.probeEnds, test.waits)
		case test.waits > 0:
			if err := l.checkProbe(l.probeEnds, test.heard); err == nil || !strings.Contains(err.Error(), "does not arrive") {
				t.Errorf("%s: error %v in the end", test.name, err)
			}
		case err == nil && l.probe != "":
			t.Errorf("%s: still waits", test.name)
		}
	}
}
