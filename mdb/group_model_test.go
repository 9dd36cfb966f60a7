package mdb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A groupedWrite is one write of a schedule.
type groupedWrite struct {
	stream   int
	messages int
	expect   string // "", "none", "stream" or "version"
	version  int64
	repeat   int  // the number of an earlier write whose messages it has; -1: none
	same     bool // whether a repeat is to the same stream, and Idempotent
	refused  bool // whether a trigger refuses it
	payload  bool // whether its last message has JSON that only the server refuses
	cancel   bool // whether its context ends while it waits
}

const groupedStreams = 3

// beyondNumeric is JSON that Go accepts. The server refuses it with the code 22003, because jsonb stores numbers as numeric.
const beyondNumeric, beyondNumericCode = `[1e131072]`, "22003"

// groupedSchedule returns a random schedule. A write whose messages are repeated has no
// version that depends on others, so that what the repeat finds does not depend on when it
// looks.
func groupedSchedule(r *rand.Rand) []groupedWrite {
	ws := make([]groupedWrite, 2+r.IntN(12))
	for i := range ws {
		w := &ws[i]
		*w = groupedWrite{stream: r.IntN(groupedStreams), messages: 1, repeat: -1}
		if r.IntN(4) == 0 {
			w.messages = 2 + r.IntN(2)
		}
		switch r.IntN(8) {
		case 0:
			w.expect = "none"
		case 1:
			w.expect = "stream"
		case 2, 3, 4:
			w.expect, w.version = "version", int64(r.IntN(7))
		}
		switch r.IntN(11) {
		case 0:
			w.refused = true
		case 1:
			w.cancel = true
		case 2:
			w.payload = true
		case 3, 4:
			if of := r.IntN(i + 1); of < i && ws[of].repeat < 0 {
				w.repeat, w.messages, w.same = of, ws[of].messages, r.IntN(2) == 0
				if w.same {
					w.stream, w.expect = ws[of].stream, ""
				}
			}
		}
	}
	return ws
}

// A groupedPlace is where the first message of a write is.
type groupedPlace struct {
	stream   int
	position int64
}

// A groupedModel is what a category contains after writes one after another.
type groupedModel struct {
	versions [groupedStreams]int64
	begins   map[int]groupedPlace // of the messages of a write, by its number
	log      []string             // stream and position of each message, in order
}

// write returns what the write of the number comes to.
func (m *groupedModel) write(ws []groupedWrite, i int) string {
	w := ws[i]
	version := m.versions[w.stream]
	at, taken := m.begins[w.repeat]
	fits := true
	switch w.expect {
	case "none":
		fits = version == -1
	case "stream":
		fits = version >= 0
	case "version":
		fits = version == w.version
	}
	switch {
	case w.cancel:
		return "cancelled"
	case w.payload && (fits || w.messages == 1): // the JSON of a message is converted when those before it have been written
		return "refused " + beyondNumericCode
	case !fits:
		return fmt.Sprintf("version %d", version)
	case w.refused:
		return "refused " + refusedCode
	case taken && w.same && at.stream == w.stream:
		return fmt.Sprintf("repeats %d", at.position)
	case taken:
		return "taken"
	}
	of := i
	if w.repeat >= 0 {
		of = w.repeat
	}
	m.begins[of] = groupedPlace{w.stream, version + 1}
	for j := range w.messages {
		m.log = append(m.log, fmt.Sprintf("%d/%d", w.stream, version+1+int64(j)))
	}
	m.versions[w.stream] += int64(w.messages)
	return fmt.Sprintf("written %d", version+1)
}

// outcomeOf describes what a write came to, as the model does.
func outcomeOf(written []mdb.Written, err error) string {
	var wrong *mdb.WrongVersionError
	var duplicate *mdb.DuplicateIDError
	var unknown *mdb.UnknownOutcomeError
	var pgErr *pgconn.PgError
	switch {
	case err == nil && written[0].Duplicate:
		return fmt.Sprintf("repeats %d", written[0].Position)
	case err == nil:
		for i, w := range written {
			if w.Position != written[0].Position+int64(i) || w.ID == uuid.Nil || w.Time.IsZero() || w.GlobalPosition <= 0 || i > 0 && w.GlobalPosition <= written[i-1].GlobalPosition {
				return fmt.Sprintf("wrong results %+v", written)
			}
		}
		return fmt.Sprintf("written %d", written[0].Position)
	case errors.As(err, &wrong):
		return fmt.Sprintf("version %d", wrong.Actual)
	case errors.As(err, &duplicate):
		return "taken"
	case errors.As(err, &unknown):
		return "unknown"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.As(err, &pgErr):
		return "refused " + pgErr.Code
	}
	return err.Error()
}

// A groupedRun does the writes of a schedule in a category of its own.
type groupedRun struct {
	category mdb.Category
	messages [][]mdb.ProposedMessage // of each write
}

func (r *groupedRun) arguments(ws []groupedWrite, i int) (stream mdb.StreamName, ms []mdb.ProposedMessage, opts []mdb.WriteOption) {
	w := ws[i]
	if w.repeat >= 0 {
		ms = slices.Clone(r.messages[w.repeat])
	} else {
		ms = proposals(w.messages)
	}
	r.messages = append(r.messages, ms)
	if w.refused {
		ms = slices.Clone(ms)
		ms[0].Type = refusedType
	}
	if w.payload {
		ms = slices.Clone(ms)
		ms[len(ms)-1].Data = json.RawMessage(beyondNumeric)
	}
	switch w.expect {
	case "none":
		opts = append(opts, mdb.ExpectNoStream())
	case "stream":
		opts = append(opts, mdb.ExpectStream())
	case "version":
		opts = append(opts, mdb.ExpectVersion(w.version))
	}
	if w.same {
		opts = append(opts, mdb.Idempotent())
	}
	return r.category.Stream(fmt.Sprint(w.stream)), ms, opts
}

// TestGroupModel checks that the writes of a group come to the same as one after another, in
// random schedules of expected versions, IDs that are taken, refusals by a trigger,
// JSON that the server refuses, and contexts that end. A model says what that is, and a store without groups agrees with it.
func TestGroupModel(t *testing.T) {
	t.Parallel()
	schedules := 150
	if testing.Short() {
		schedules = 30
	}
	url := refusing(t)
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		plain := newStore(t, newPool(t, url))
		s := newStore(t, newPool(t, url, connections(20)), way...)
		mdb.NeverRest(s)
		kinds := make(map[string]int)
		for seed := range uint64(schedules) {
			ws := groupedSchedule(rand.New(rand.NewPCG(seed, 20)))
			model := groupedModel{versions: [groupedStreams]int64{-1, -1, -1}, begins: make(map[int]groupedPlace)}
			alone := groupedRun{category: mdbtest.Category("alone")}
			grouped := groupedRun{category: mdbtest.Category("grouped")}
			release := mdb.HoldTurn(s, grouped.category)
			var want []string
			var queue []*queued
			for i, w := range ws {
				want = append(want, model.write(ws, i))
				stream, ms, opts := grouped.arguments(ws, i)
				q := enqueue(t, s, stream, ms, opts...)
				queue = append(queue, q)
				if w.cancel {
					q.cancel()
					_, _ = q.result(t)
				}
				ctx, cancel := context.WithCancel(t.Context())
				if w.cancel {
					cancel()
				}
				stream, ms, opts = alone.arguments(ws, i)
				written, err := plain.WriteMessages(ctx, stream, ms, opts...)
				cancel()
				if got := outcomeOf(written, err); got != want[i] {
					t.Fatalf("seed %d, write %d of %+v: without groups got %q (%v), want %q", seed, i, ws, got, err, want[i])
				}
			}
			release()
			last := int64(0)
			for i, q := range queue {
				written, err := q.result(t)
				if got := outcomeOf(written, err); got != want[i] {
					t.Fatalf("seed %d, write %d of %+v: got %q (%v), want %q", seed, i, ws, got, err, want[i])
				}
				if err == nil && !written[0].Duplicate {
					if written[0].GlobalPosition <= last {
						t.Fatalf("seed %d, write %d: got global position %d after %d", seed, i, written[0].GlobalPosition, last)
					}
					last = written[len(written)-1].GlobalPosition
				}
				kinds[kindOf(want[i])]++
			}
			for _, category := range []mdb.Category{alone.category, grouped.category} {
				if got := logOf(t, plain, category); !slices.Equal(got, model.log) {
					t.Fatalf("seed %d, %s: got messages %v, want %v", seed, category, got, model.log)
				}
			}
			wantNoGroups(t, s)
		}
		for _, kind := range []string{"written", "repeats", "version", "taken", "refused", "cancelled"} {
			if kinds[kind] == 0 {
				t.Errorf("no write has come to %q", kind)
			}
		}
	})
}

func kindOf(outcome string) string {
	var kind string
	_, _ = fmt.Sscan(outcome, &kind)
	return kind
}

// logOf returns the streams and positions of a category's messages, in order.
func logOf(t testing.TB, s *mdb.Store, category mdb.Category) []string {
	t.Helper()
	ms, err := s.GetCategoryMessages(t.Context(), category, mdb.Unlimited())
	if err != nil {
		t.Fatal(err)
	}
	var log []string
	for _, m := range ms {
		log = append(log, fmt.Sprintf("%s/%d", m.Stream.ID(), m.Position))
	}
	return log
}
