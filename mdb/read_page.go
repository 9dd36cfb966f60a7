package mdb

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// A pageRead is the read of a page, with its arguments and its result, so that it is one
// allocation. It usually takes one step, which is one statement. If that fails because of
// one of its messages, further steps read smaller parts of the page and find the message.
// After the last step, the next one begins the next page.
type pageRead struct {
	readConfig        // position is where the next step begins
	name       string // of a stream or a category
	isStream   bool
	withHead   bool // whether each step reads the head before its messages
	tableless  bool // whether the role may not read the table
	args       [maxArguments]any
	lookArgs   [2]any
	steps      []step               // reused, as are the functions that read a step's rows
	readRows   func(pgx.Rows) error // read
	readHead   func(pgx.Rows) error // into head
	readFound  func(pgx.Rows) error // into found
	most       int64                // the limit of the step
	begin      int64                // the step's statement begins here: at position, or at the anchor
	rows       int64                // the limit of the step's statement
	head       anchor               // the last message before the step, if withHead is set
	after      int64                // of the step's messages, whose data is read if it is wanted
	partitions int64                // of which some are wanted
	wanted     string               // likewise
	version    int64                // the stream's version before the step, if withVersion is true
	follows    bool                 // whether each step begins after the last message of the one before, if that is there
	anchored   bool                 // whether the step has an anchor
	anchor     anchor               // the message that must be there, before position
	inclusive  bool                 // whether the step's messages begin with the anchor
	found      anchor               // what is in the anchor's place
	messages   []Message            // the step's
	arrived    int                  // how many rows of a step arrived, also of one that failed
	page       []Message            // the result
	kept       bool                 // whether the step has kept what had arrived before its connection was lost
	unproved   *anchor              // of a step that has kept what had arrived, and has not looked at its anchor; nil: none
	part       int64                // limits the steps after one that was too large; 0: no limit
	succeeds   int64                // a step of this many messages succeeds; 0: none is known
	fails      int64                // a step of this many messages fails; 0: none is known
	search     *search              // of the message that fails; nil: none
	searched   bool                 // whether a search has found none since the last step that succeeded
	complete   bool                 // the page is complete
	sought     bool                 // position was found, see Since
	all        *allRead             // of a read of all categories; nil: it is none
	pageBytes
}

func (s *procedures) configureStreamRead(stream StreamName, opts []StreamOption) (*pageRead, error) {
	r := &pageRead{name: string(stream), isStream: true, readConfig: readConfig{batchSize: DefaultBatchSize}}
	r.faults.streamWithID(stream)
	for _, opt := range opts {
		opt.streamRead(&r.readConfig)
	}
	r.turn()
	r.check(s.config)
	return r, r.faults.err()
}

func (s *procedures) configureCategoryRead(category Category, opts []CategoryOption) (*pageRead, error) {
	// The first global position is 1.
	r := &pageRead{name: string(category), readConfig: readConfig{position: 1, batchSize: DefaultBatchSize}}
	r.faults.category("category", category)
	for _, opt := range opts {
		opt.categoryRead(&r.readConfig)
	}
	r.turn()
	r.check(s.config)
	return r, r.faults.err()
}

// readPage reads the next page. It returns messages with an [*UnreadableError], which come
// before the one that cannot be read.
func (s *procedures) readPage(ctx context.Context, r *pageRead) ([]Message, error) {
	call := r.call("GetStreamMessages", "GetCategoryMessages", s.tx != nil)
	ctx, begun := s.config.hooks.startRead(ctx, call)
	ms, err := s.readSteps(ctx, r)
	s.config.hooks.endRead(ctx, call, begun, ms, err)
	return ms, err
}

// takeSteps reads the next page from one server.
func (s *procedures) takeSteps(ctx context.Context, r *pageRead) ([]Message, error) {
	if err := s.findSince(ctx, r); err != nil {
		return nil, err
	}
	for {
		done, err := s.step(ctx, r)
		if err != nil && !errors.As(err, new(*UnreadableError)) {
			return nil, err
		}
		switch {
		case done && err == nil && len(r.page) == 0 && r.all != nil && r.all.head.Position > 0: // looked at messages that are not selected
			r.position = r.past(r.all.head.Position)
		case done:
			return r.page, err
		}
	}
}

// step takes the next step of a read. It reports whether the page is complete, which it is
// with an [*UnreadableError], too. After another error the step can be repeated.
func (s *procedures) step(ctx context.Context, r *pageRead) (done bool, err error) {
	if r.complete {
		r.clear()
	}
	if r.search != nil {
		done, err = s.searchStep(ctx, r)
	} else {
		done, err = s.pageStep(ctx, r)
	}
	r.complete = done
	return done, err
}

func (s *procedures) pageStep(ctx context.Context, r *pageRead) (done bool, err error) {
	r.most = r.next()
	if err := s.runPage(ctx, r); isStale(err) {
		return false, err
	} else if err != nil && isLost(err) {
		r.keep()
		return false, r.explain(err)
	} else if err != nil {
		return s.failed(r, err)
	}
	if r.required {
		if len(r.messages) == 0 && (!r.withVersion() || r.version == NoStream) {
			return true, noStream(r.name)
		}
		r.required = false
	}
	n := int64(len(r.messages))
	complete := r.add()
	if r.since != nil && n > 0 && len(r.page) == 0 { // all are too old
		return false, nil
	}
	if r.full(complete, n) {
		r.succeeds, r.fails = 0, max(r.fails-n, 0)
		r.more = true
		return true, nil
	}
	if n < r.most || n == 0 || r.most == unlimited {
		r.succeeds, r.fails = 0, 0
		return true, nil
	}
	r.succeeds = 0
	if r.fails > 0 {
		r.fails = max(r.fails-n, 0)
	} else {
		r.part *= 2 // until the page limits it again
	}
	return complete, nil
}

// add adds the step's messages to the page, and reports whether that is full.
func (r *pageRead) add() bool {
	r.searched = false
	if n := len(r.messages); n > 0 {
		last := &r.messages[n-1]
		r.position = r.past(r.positionOf(last))
		if r.follows {
			r.anchor, r.anchored = anchorOf(last, r.positionOf(last)), true
		}
	}
	r.count(int64(len(r.messages)))
	r.keepSince()
	if r.page == nil {
		r.page = r.messages
	} else {
		r.page = append(r.page, r.messages...)
	}
	r.messages = nil
	return int64(len(r.page)) == r.batchSize
}

// keep adds to the page what had arrived of a step whose connection was lost. The next step
// continues after it, and its anchor is the last message. History may have changed before
// the step, so if that has not looked at its own anchor yet, a subscription looks at both
// before it continues. If nothing else was to come, that is not known, so the step leaves
// something to be read.
func (r *pageRead) keep() {
	n := len(r.messages)
	if r.all != nil { // what had arrived may contain a gap
		n = 0
	} else if int64(n) == r.most {
		n--
	}
	r.messages = r.messages[:n]
	if n > 0 && (!r.anchored || !r.inclusive || r.found == r.anchor) {
		if r.anchored && !r.inclusive {
			before := r.anchor
			r.unproved = &before
		}
		r.required, r.kept = false, true
		r.add()
	}
	r.messages = nil
}

func noStream(name string) error { return fmt.Errorf("%w: %s", ErrNoStream, name) }

// next returns the limit of the next step.
func (r *pageRead) next() int64 {
	most := int64(math.MaxInt64)
	if r.batchSize != unlimited {
		most = r.batchSize - int64(len(r.page))
	}
	if r.succeeds > 0 {
		most = min(most, r.succeeds)
	} else if r.fails > 0 {
		most = min(most, max(r.fails/2, 1))
	}
	if r.part > 0 {
		most = min(most, r.part)
	}
	most = min(most, r.ask())
	if most == math.MaxInt64 {
		return unlimited
	}
	return most
}

// failed decides what follows from the failure of a step.
func (s *procedures) failed(r *pageRead, err error) (done bool, _ error) {
	r.succeeds = 0
	var row *scan.RowError
	decoding := errors.As(err, &row)
	fault := isMessageFault(err)
	arrived := int64(r.arrived)
	switch {
	case decoding && arrived == 0:
		return true, r.pass(unreadableRow(row, err))
	case s.tx != nil && !decoding: // the failure has aborted the transaction
	case fault && arrived > 0 && arrived != r.most:
		r.succeeds, r.fails = arrived, arrived+1
		return false, nil
	case (fault || isPageTooLarge(err)) && r.most == unlimited:
		r.part = DefaultBatchSize
		return false, nil
	case fault && r.most > 1:
		r.fails = r.most
		return false, nil
	case fault:
		r.search = &search{cause: err, low: r.position - 1, high: unknownPosition}
		return false, nil
	case isPageTooLarge(err) && r.most > 1:
		r.part = r.most / 2
		return false, nil
	}
	return false, r.explain(err)
}

// explain returns the error of a step, for users.
func (r *pageRead) explain(err error) error {
	return explain("get messages of "+r.kind(), err)
}

func (r *pageRead) positionOf(m *Message) int64 {
	if r.isStream {
		return m.Position
	}
	return m.GlobalPosition
}

// withVersion reports whether RequireStream needs the stream's version: a read of all
// messages that finds none needs nothing else.
func (r *pageRead) withVersion() bool {
	return r.required && (r.position > 0 || r.condition != nil)
}

// statement returns the statement for a step and its arguments.
func (s *procedures) statement(r *pageRead) (*statement, []any) {
	if r.backwards {
		return r.backwardsStatement()
	}
	direct := s.config.direct && r.condition == nil
	r.begin, r.rows = r.position, r.most
	r.inclusive = r.anchored && !r.filtered() && (direct || r.tableless) && r.anchor.Position == r.position-1
	if r.inclusive {
		r.begin = r.anchor.Position
		if r.rows != unlimited {
			r.rows++
		}
	}
	switch {
	case r.isStream && direct && r.inclusive:
		return directStreamAnchored, r.arguments(&r.name, &r.begin, r.limit())
	case r.isStream && direct:
		return directStreamMessages, r.arguments(&r.name, &r.begin, r.limit())
	case r.isStream:
		return getStreamMessages, r.arguments(&r.name, &r.begin, &r.rows, r.condition)
	case direct && r.wants():
		return directCategoryShared, r.arguments(&r.name, &r.begin, r.limit(), &r.after, &r.partitions, &r.wanted)
	case !direct:
		return getCategoryMessages, r.arguments(&r.name, &r.begin, &r.rows, r.correlation, r.member, r.size, r.condition)
	case r.inclusive:
		return directCategoryAnchored, r.arguments(&r.name, &r.begin, r.limit())
	case r.correlation == nil && r.size == nil:
		return directCategoryMessages, r.arguments(&r.name, &r.begin, r.limit())
	case r.correlation == nil:
		return directGroupMember, r.arguments(&r.name, &r.begin, r.limit(), r.member, r.size)
	case r.size == nil:
		return directCorrelated, r.arguments(&r.name, &r.begin, r.limit(), r.correlation)
	}
	return directCorrelatedGroupMember, r.arguments(&r.name, &r.begin, r.limit(), r.correlation, r.member, r.size)
}

// wants reports whether only some messages of a step are wanted.
func (r *pageRead) wants() bool {
	if r.readConfig.wanted == nil {
		return false
	}
	r.after = r.position - 1
	r.partitions, r.wanted = r.readConfig.wanted()
	return r.wanted != ""
}

// filtered reports whether the read may leave out messages.
func (c *readConfig) filtered() bool {
	return c.condition != nil || c.size != nil || c.correlation != nil
}

// limit returns the argument of LIMIT; NULL is no limit.
func (r *pageRead) limit() *int64 {
	if r.rows == unlimited {
		return nil
	}
	return &r.rows
}

// arguments keeps the arguments in r. They are pointers, which can be passed as any without
// an allocation.
func (r *pageRead) arguments(args ...any) []any {
	return r.args[:copy(r.args[:], args)]
}

// runPage runs a step's statement, in one round trip. A head comes before the messages: in
// the opposite order, a message that becomes visible between the two would be passed over.
// Both are read on one connection, because another may be to a server that has more.
func (s *procedures) runPage(ctx context.Context, r *pageRead) error {
	if r.all != nil {
		return s.runAllPage(ctx, r)
	}
	r.beginStep() // lets the previous page be freed
	r.room = r.left()
	if r.readRows == nil {
		r.readRows = r.read
	}
	st, args := s.statement(r)
	if r.inclusive {
		r.found = anchor{Position: math.MinInt64}
	}
	look := r.anchored && !r.inclusive
	if !r.withHead && !r.withVersion() && r.condition == nil && !look {
		return r.checkAnchor(s.run(ctx, st, r.readRows, args...))
	}
	if r.steps == nil {
		r.steps = make([]step, 0, 5)
	}
	steps := r.steps[:0]
	var undo *statement
	if r.condition != nil {
		steps, undo = append(steps, step{st: conditionOn, read: drain}), conditionOff
	}
	if r.withVersion() {
		r.version = NoStream // the server returns NULL for it
		steps = append(steps, step{st: s.versionStatement(), read: number(&r.version), args: []any{&r.name}})
	}
	if r.withHead {
		r.head = r.noAnchor()
		if r.readHead == nil {
			r.readHead = anchorInto(&r.head)
		}
		steps = append(steps, step{st: r.anchorStatement(lastInStream, lastInCategory), read: r.readHead, args: []any{&r.name}})
	}
	steps = append(steps, step{st: st, read: r.readRows, args: args})
	if look {
		steps = append(steps, r.lookStep())
	}
	if r.condition != nil {
		steps = append(steps, step{st: conditionOff, read: drain})
	}
	err := s.runBatch(ctx, undo, steps...)
	if r.condition != nil {
		err = blameCondition(*r.condition, err)
	}
	return r.checkAnchor(err)
}

// isStale reports whether a step has found that what it relies on is no longer so.
func isStale(err error) bool { return errors.Is(err, errGone) || errors.Is(err, errOtherServer) }

// checkAnchor returns errGone if a read that succeeded has not found its anchor.
func (r *pageRead) checkAnchor(err error) error {
	if err == nil && r.anchored && r.found != r.anchor {
		r.messages = nil
		return errGone
	}
	return err
}

func (r *pageRead) read(rows pgx.Rows) (err error) {
	r.messages, err = readMessages(rows, r)
	return err
}

// isAnchor reports whether the first row of an inclusive read is in the anchor's place.
func (r *pageRead) isAnchor(page *scan.Page, values [][]byte) (bool, error) {
	place, err := page.Place(values)
	if found := anchorAt(place, r.isStream); err == nil && found.Position == r.anchor.Position {
		r.found = found
		return true, nil
	}
	return false, err
}
