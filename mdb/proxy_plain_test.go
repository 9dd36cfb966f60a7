package mdb_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestPLProxyPlain checks a proxy of only Message DB's functions: what works, that nothing is
// made up that the proxy does not know, and that everything else is rejected.
func TestPLProxyPlain(t *testing.T) {
	t.Parallel()
	p := newPlainProxy(t)
	t.Run("writes", p.testPlainWrites)
	t.Run("rejected", p.testPlainRejected)
	t.Run("Check says so", p.testPlainCheck)
	t.Run("the outcome of a lost write is unknown", p.testPlainLost)
	t.Run("the look for a message needs a table", p.testPlainDuplicates)
}

func (p *plproxy) testPlainWrites(t *testing.T) {
	for _, mode := range execModes {
		s := newStore(t, newPool(t, p.url, execMode(mode)))
		for shard := range p.shards {
			stream := p.category(t, shard).Stream("1")
			_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("First", nil), mdb.ExpectStream())
			wantError[*mdb.WrongVersionError](t, err)
			first := write(t, s, stream, mdb.NewMessage("First", nil), mdb.ExpectNoStream())
			results := s.WriteEach(t.Context(), []mdb.Write{
				{Stream: stream, Message: mdb.NewMessage("Second", nil), Options: []mdb.WriteOption{mdb.ExpectStream()}},
				{Stream: stream, Message: mdb.NewMessage("Third", nil)},
			})
			for i, w := range []mdb.WriteResult{{Written: first}, results[0], results[1]} {
				if want := (mdb.Written{ID: w.Written.ID, Position: int64(i)}); w.Err != nil || w.Written != want {
					t.Errorf("%v: got %+v, want only its position, %d", mode, w, i)
				}
			}
			if got := positions(t, p.shards[shard], stream); !slices.Equal(got, []int64{0, 1, 2}) {
				t.Errorf("%v: the shard has the positions %v", mode, got)
			}
			r := receiveCategory(t, s, stream.Category(), mdb.AsConsumerGroup(0, 1))
			if got := r.next(t, 3); got[2].Position != 2 {
				t.Errorf("%v: a subscription has received %v", mode, places(got))
			}
			r.stop(t)
		}
	}
}

func (p *plproxy) testPlainRejected(t *testing.T) {
	for _, mode := range execModes {
		stream := p.category(t, 0).Stream("1")
		for _, opts := range [][]mdb.WriteOption{nil, {mdb.ExpectStream()}, {mdb.Idempotent()}} {
			s := newStore(t, newPool(t, p.url, execMode(mode)))
			for range 2 { // the first call, and a later one
				_, err := s.WriteMessages(t.Context(), stream, proposals(2), opts...)
				wantProxied(t, "WriteMessages", err)
			}
			for name, err := range rejected(t.Context(), s, s.WithTx(begin(t, s.Pool())), stream) {
				wantProxied(t, name, err)
			}
		}
		if got := positions(t, p.shards[0], stream); len(got) != 0 {
			t.Errorf("%v: the shard has the positions %v, want none", mode, got)
		}
	}
}

func (p *plproxy) testPlainCheck(t *testing.T) {
	err := newStore(t, newPool(t, p.url)).Check(t.Context())
	wantProxied(t, "Check", err)
	if setup := wantError[*mdb.SetupError](t, err); !strings.Contains(setup.Problem, "PL/Proxy") || strings.Contains(err.Error(), "installed") {
		t.Errorf("got %v", err)
	}
}

func (p *plproxy) testPlainLost(t *testing.T) {
	s, m := newStore(t, newPool(t, p.url)), mdb.NewMessage("Happened", nil)
	m.ID = uuid.New()
	stream := p.category(t, 1).Stream("1")
	write(t, s, stream, mdb.NewMessage("Happened", nil))
	p.relay.cut(cut{"write_message", 0})
	_, err := s.WriteMessage(t.Context(), stream, m)
	if !slices.Equal(wantError[*mdb.UnknownOutcomeError](t, err).IDs, []uuid.UUID{m.ID}) || mdb.IsTransient(err) {
		t.Errorf("got error %v", err)
	}
	if got := positions(t, p.shards[1], stream); len(got) != 2 {
		t.Errorf("the shard has the positions %v, want the write", got)
	}
}

func (p *plproxy) testPlainDuplicates(t *testing.T) {
	var log journal
	s := newStore(t, newPool(t, p.url), log.option())
	m := mdb.NewMessage("Happened", map[string]int{"n": 1})
	m.ID = uuid.New()
	stream := p.category(t, 1).Stream("1")
	write(t, s, stream, m)
	_, err := s.WriteMessage(t.Context(), stream, m)
	wantError[*mdb.DuplicateIDError](t, err)
	idempotent := func() (mdb.Written, error) { return s.WriteMessage(t.Context(), stream, m, mdb.Idempotent()) }
	_, err = idempotent()
	unknown := wantError[*mdb.UnknownOutcomeError](t, err)
	if !errors.Is(err, mdb.ErrProxied) || !slices.Equal(unknown.IDs, []uuid.UUID{m.ID}) {
		t.Errorf("got error %v, want the reason", err)
	}
	_, err = s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(7), mdb.Idempotent())
	wantError[*mdb.UnknownOutcomeError](t, err)
	if log.retries() != 0 {
		t.Errorf("got retries, want none: %s", &log)
	}
	testdb.ViewShards(t, p.url)
	if w, err := idempotent(); err != nil || !w.Duplicate || w.Position != 0 || w.GlobalPosition == 0 || w.Time.IsZero() {
		t.Errorf("with a view: got %+v, error %v, want the first write", w, err)
	}
}
