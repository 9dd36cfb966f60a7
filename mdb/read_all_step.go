package mdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/barrier"
	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
)

// An allRead is what a read of all categories has beside its page. Positions that are missing
// in a page of all messages are a gap. A page without one needs no barrier. A filter hides
// gaps, so a read with a filter only looks at what is final.
type allRead struct {
	final    barrier.Final // before the step; of the server that the step must reach, if anything is
	drawn    drawn         // of the server that the step has reached
	gap      int64         // positions up to it are missing, and must be final before the read goes on; 0: none are
	head     anchor        // the last message that was looked at, if that is not selected
	more     bool          // there may be more messages
	fresh    bool          // a barrier has been passed since the step was called
	searched bool          // what a search looks at is final

	// Of a read with a filter: nothing is selected from a position up to what was final then.
	emptyFrom int64
	emptyTo   barrier.Final
	run       barrier.Final // what has followed the messages that were looked at without a gap
	stays     bool          // a transaction has stayed open for longer than the read's patience

	latest  []source.Latest // must be there
	places  string          // their positions
	missing bool            // one of them is not there
}

// maxLooked is the number of messages that a statement with a filter by types looks at.
const maxLooked = 10_000

// errOtherServer is the error of a step of a read of all categories on another server than the
// one on which the barrier was passed, or on one that has lost what was final.
var errOtherServer = errors.New("the server is another one, or its sequence of global positions was set back")

// filteredAll reports whether a read of all categories has a filter.
func (c *readConfig) filteredAll() bool { return c.types != nil || c.categories != nil }

// allStep takes a step of a read of all categories, as step does, when what it needs is final.
// It reports that the page is complete also if that is empty, and then r.all.more says whether
// to read on.
func (s *Store) allStep(ctx context.Context, r *pageRead) (done bool, err error) {
	a := r.all
	a.fresh = false
	for others := 0; ; {
		switch err := s.ready(ctx, r); {
		case err == errPatience && !r.follows: //nolint:errorlint // what ready returns
			continue
		case err == errPatience: //nolint:errorlint // what ready returns
			if r.complete {
				r.clear()
			}
			r.complete, a.more, a.head = true, true, anchor{}
			return true, nil
		case err != nil:
			return false, err
		}
		a.gap, a.more = 0, false
		done, err = s.step(ctx, r)
		a.searched = a.searched && r.search != nil
		switch {
		case isStale(err):
			s.barrier.Forget(a.final.Server)
			s.barrier.Forget(a.drawn.server)
			a.run, a.fresh = barrier.Final{}, false
			if others++; errors.Is(err, errGone) {
				return false, err
			} else if others > maxOthers {
				return false, r.explain(err)
			}
		case err != nil || !done || len(r.page) > 0 || a.head.Position > 0:
			a.more = err == nil && done && (a.gap > 0 || r.more || r.filteredAll())
			return done, err
		case r.filteredAll() && a.fresh, !r.filteredAll() && a.gap == 0:
			return true, nil
		case r.filteredAll():
			a.emptyFrom, a.emptyTo = r.position, a.final
		}
	}
}

// maxOthers is how often a read follows the pool to another server. If the pool has connections
// to several, that would not end.
const maxOthers = 5

// ready waits until what the next step needs is final. The error may be errPatience.
func (s *Store) ready(ctx context.Context, r *pageRead) error {
	a := r.all
	a.setFinal(s.barrier.Final())
	var final barrier.Final
	var err error
	switch {
	case r.search != nil && !a.searched:
		final, err = s.reach(ctx, barrier.Now)
		a.searched = err == nil
	case r.filteredAll() && !a.fresh && (a.final.Server == 0 || a.final.Position <= r.lookedTo()):
		return s.readyFiltered(ctx, r)
	case a.gap > a.final.Position:
		// If the server is another one, or its sequence was set back, the gap is that of another page.
		final, err = s.reachSoon(ctx, a.gap)
	default:
		return nil
	}
	a.setFinal(final)
	return err
}

// readyFiltered is ready for a read with a filter that has looked at all that is final.
func (s *Store) readyFiltered(ctx context.Context, r *pageRead) error {
	a := r.all
	if a.stays {
		if some, err := s.follow(ctx, r); some || err != nil {
			return err
		}
	}
	final, err := s.reachSoon(ctx, r.lookedTo()+1)
	a.fresh, a.stays = err == nil, err == errPatience //nolint:errorlint // what reachSoon returns
	if a.stays {
		if some, followErr := s.follow(ctx, r); some || followErr != nil {
			return followErr
		}
	}
	a.setFinal(final)
	return err
}

// setFinal sets what is final to this, or to what follows it without a gap.
func (a *allRead) setFinal(final barrier.Final) {
	if final.Server == 0 || a.run.Server == final.Server && a.run.Position > final.Position {
		final = a.run
	}
	a.final = final
}

// lookedTo returns the position up to which nothing is left for a read with a filter.
func (r *pageRead) lookedTo() int64 {
	if a := r.all; a.emptyFrom == r.position && a.emptyTo.Server == a.final.Server {
		return max(r.position-1, a.emptyTo.Position)
	}
	return r.position - 1
}

// follow finds what follows the messages that were looked at without a gap. That is final although
// transactions are open. If nothing at all follows, there is nothing to wait for. It returns false if
// the read has to wait.
func (s *Store) follow(ctx context.Context, r *pageRead) (bool, error) {
	a := r.all
	after, run, more := r.lookedTo(), int64(0), false
	var d drawn
	err := s.runFinal(ctx, &d,
		step{st: barrierDrawn, read: d.read},
		step{st: contiguousInAll, read: one(&run, &more), args: []any{after, int64(maxLooked)}})
	if err != nil {
		return false, r.explain(err)
	}
	switch {
	case after >= r.position && d.server != a.emptyTo.Server, run <= after && more:
		return false, nil
	case !more:
		a.fresh = true
		return true, nil
	}
	a.run = barrier.Final{Server: d.server, Position: run}
	a.final = a.run
	return true, nil
}

// allStatement returns the statement for a step of a read of all categories.
func (r *pageRead) allStatement() (*statement, []any) {
	looked := r.most
	if r.types != nil {
		looked = max(maxLooked/int64(max(1, len(r.categories))), 1)
	}
	args := []any{&r.position, r.allBound(), &r.most, looked, r.types, r.categories}
	switch st := r.allStatements(); {
	case r.types == nil && r.categories == nil:
		return st.all, r.arguments(&r.position, &r.most)
	case r.categories == nil:
		return st.ofTypes, args[:5]
	case r.types == nil:
		return st.inCategories, args
	default:
		return st.ofTypesInCategories, args
	}
}

func (r *pageRead) allStatements() *allStatements {
	if r.backwards {
		return &allBackwards
	}
	return &allForwards
}

// allBound returns the last position that a step may look at.
func (r *pageRead) allBound() *int64 {
	if r.backwards {
		return new(int64)
	}
	return &r.all.final.Position
}

// runAllPage runs the statement of a step of a read of all categories, in one round trip. The
// server is looked at on the same connection, and the anchors after the messages, as lookStep
// says.
func (s *procedures) runAllPage(ctx context.Context, r *pageRead) error {
	r.beginStep()
	r.room, r.inclusive, r.all.head = r.left(), false, anchor{}
	if r.readRows == nil {
		r.readRows = r.read
	}
	st, args := r.allStatement()
	if r.backwards {
		err := s.run(ctx, st, r.readRows, args...)
		if err == nil {
			r.sift()
		}
		return err
	}
	return s.runInAll(ctx, r, step{st: st, read: r.readRows, args: args}, r.sift)
}

// runInAll runs a step between the look at the server and those at the anchors.
func (s *procedures) runInAll(ctx context.Context, r *pageRead, page step, sift func()) error {
	a := r.all
	if r.steps == nil {
		r.steps = make([]step, 0, 5)
	}
	steps := r.steps[:0]
	steps = append(steps, step{st: barrierDrawn, read: a.drawn.read}, page)
	if r.anchored {
		steps = append(steps, r.lookStep())
	}
	if len(a.latest) > 0 {
		a.missing = true
		steps = append(steps, step{st: latestInAll, read: a.readLatest, args: []any{a.places}})
	}
	err := s.runFinal(ctx, &a.drawn, steps...)
	var row *scan.RowError
	switch decodes := !errors.As(err, &row); {
	case err != nil && decodes:
		return err
	case a.final.Server != 0 && (a.drawn.server != a.final.Server || a.drawn.last < a.final.Position):
		r.messages = nil
		return errOtherServer
	case !decodes && r.arrived == 0 && !r.filteredAll() && a.drawn.missing(r.position-1, row.GlobalPosition) && row.GlobalPosition-1 > a.final.Position:
		a.gap = row.GlobalPosition - 1
		return nil
	case !decodes:
		return err
	case len(a.latest) > 0 && a.missing:
		r.messages = nil
		return errGone
	}
	if err := r.checkAnchor(nil); err != nil {
		return err
	}
	sift()
	return nil
}

// sift drops the messages that must not be delivered yet, and the one that only says how far a
// filter has looked.
func (r *pageRead) sift() {
	a := r.all
	if r.types != nil {
		if n := len(r.messages); n > 0 && !slices.Contains(r.types, r.messages[n-1].Type) {
			last := &r.messages[n-1]
			a.head = anchorOf(last, last.GlobalPosition)
			r.messages = r.messages[:n-1]
		}
		return
	}
	if r.filteredAll() || r.backwards {
		return
	}
	before := r.position - 1
	for i := range r.messages {
		p := r.messages[i].GlobalPosition
		if p-1 > a.final.Position && a.drawn.missing(before, p) {
			a.gap, r.messages = p-1, r.messages[:i]
			return
		}
		before = p
	}
}

// expect sets the messages that must be there, beside the anchor.
func (a *allRead) expect(latest []source.Latest) {
	a.latest = latest
	var b strings.Builder
	for i, l := range latest {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(strconv.FormatInt(l.Position, 10))
	}
	a.places = b.String() + "}"
}

func (a *allRead) readLatest(rows pgx.Rows) error {
	found := 0
	err := eachAnchor(rows, func(at anchor) {
		if slices.ContainsFunc(a.latest, func(l source.Latest) bool { return l.Anchor == at }) {
			found++
		}
	})
	a.missing = found < len(a.latest)
	return err
}

func isUnreadable(err error) bool { return errors.As(err, new(*UnreadableError)) }

// allWhat says what a read of all categories reads, for errors.
func (c *readConfig) allWhat() string {
	if c.categories != nil {
		return fmt.Sprintf("categories %s", strings.Join(c.categories, ", "))
	}
	return "all categories"
}
