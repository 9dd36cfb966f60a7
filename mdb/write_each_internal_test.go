package mdb

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestEachNext checks which outcomes count as an attempt, so that a server that nothing
// reaches ends a call, and one that answers for other writes does not.
func TestEachNext(t *testing.T) {
	t.Parallel()
	config := &storeConfig{retry: RetryPolicy{For: time.Minute}, logger: slog.New(slog.DiscardHandler)}
	e := eachCall{store: &Store{procedures: procedures{runner: new(poolRunner), gate: new(gate), config: config}}}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	broken := func(sent bool) error { return &brokenError{sent: sent, err: io.EOF} }
	for name, tt := range map[string]struct {
		ctx             context.Context
		outcome         outcome
		err             error
		answered        bool
		late            bool // the time for retries has passed
		judged, again   bool
		unknown, failed bool
	}{
		"done":                         {t.Context(), done, nil, true, false, true, false, false, false},
		"skipped":                      {t.Context(), skipped, nil, true, true, false, true, false, false},
		"unsent, others answered":      {t.Context(), unsent, broken(false), true, true, false, true, false, false},
		"unsent, nothing gets through": {t.Context(), unsent, broken(false), false, false, true, true, false, false},
		"unsent, for the last time":    {t.Context(), unsent, broken(false), false, true, true, false, false, true},
		"unsent, the context ended":    {ended, unsent, broken(false), true, false, true, false, false, true},
		"sent":                         {t.Context(), sent, broken(true), false, false, true, true, true, false},
		"sent, for the last time":      {t.Context(), sent, broken(true), true, true, true, false, true, true},
	} {
		w := &eachWrite{proposedWrite: &proposedWrite{stream: "account-1", ids: []uuid.UUID{newID()}}, outcome: tt.outcome, err: tt.err}
		if tt.late {
			w.outage = new(outage)
		}
		judged, again, err := e.next(tt.ctx, w, tt.answered)
		if judged != tt.judged || again != tt.again {
			t.Errorf("%s: judged %t, again %t", name, judged, again)
		}
		if failed := err != nil && !again; failed != tt.failed || tt.failed && errors.As(err, new(*UnknownOutcomeError)) != tt.unknown {
			t.Errorf("%s: error %v", name, err)
		}
		if (w.unknown != nil) != tt.unknown {
			t.Errorf("%s: unknown because of %v", name, w.unknown)
		}
	}
}

// TestSpans checks that no span has more bytes or writes than the buffers between client and
// server are for, and which ones are at the ends of a chain.
func TestSpans(t *testing.T) {
	t.Parallel()
	writes := func(stream StreamName, n, size int) (ws []*eachWrite) {
		for range n {
			w := &eachWrite{proposedWrite: &proposedWrite{stream: stream}}
			w.single.texts[2] = string(make([]byte, size))
			ws = append(ws, w)
		}
		return ws
	}
	for name, tt := range map[string]struct {
		writes []*eachWrite
		spans  int
	}{
		"small":         {writes("a-1", 3, 10), 1},
		"many":          {writes("a-1", 3*pipelineSpan, 10), 3},
		"large":         {writes("a-1", 5, pipelineBuffer), 5},
		"several large": {writes("a-1", 16, pipelineBuffer/4), 4},
		"alone":         {append(writes("a-1", 1, 10), writes("a-2", 1, 10)...), 2},
		"both":          {append(writes("a-1", 2, 10), writes("a-2", 1, 10)...), 2},
	} {
		all := spans(tt.writes)
		if len(all) != tt.spans {
			t.Errorf("%s: got %d spans, want %d", name, len(all), tt.spans)
		}
		i := 0
		for _, s := range all {
			if first := len(s.writes) - 1; len(s.writes) > pipelineSpan || s.size-s.writes[first].size()-pipelineOverhead >= pipelineBuffer {
				t.Errorf("%s: got a span of %d writes and %d bytes", name, len(s.writes), s.size)
			}
			for range s.writes {
				i++
			}
			begin := i == len(s.writes) || s.writes[0].stream != tt.writes[i-len(s.writes)-1].stream
			end := i == len(tt.writes) || s.writes[0].stream != tt.writes[i].stream
			if s.begin != begin || s.end != end || s.chained == (begin && end && len(s.writes) == 1) {
				t.Errorf("%s: got a span with %+v, want begin %t and end %t", name, s, begin, end)
			}
		}
	}
}
