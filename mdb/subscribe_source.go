package mdb

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/messagedb-go/messagedb/internal/doorbell"
	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
)

type (
	checkpoint = source.Checkpoint
	anchor     = source.Anchor
)

// A messageSource reads a stream, a category or all categories page after page, see [source.Source]. It
// asks the server through functions, so that a test can drive it without one.
type messageSource struct {
	kind     string // "stream", "category" or "all"
	category Category
	stream   StreamName // or empty

	// page takes a step of the read of a page. The error may be errMoreSteps, errGone, or
	// an [*UnreadableError] for the message after the page.
	page func(context.Context, question) (answer, error)
	// compare reports which of the anchors, in descending order, are in the store.
	compare func(context.Context, []anchor) ([]bool, error)
	// end returns the checkpoint after the last message.
	end func(context.Context) (checkpoint, error)
	// after returns the checkpoint of a position.
	after    func(context.Context, int64) (checkpoint, error)
	position func(*Message) int64
	// firstPage is After and a page in one round trip, for a category.
	firstPage func(ctx context.Context, position, used, most int64) (checkpoint, answer, bool)

	beforeRead func() (woken bool)
	retried    func(context.Context, Retry) error
	wants      func(stream string) bool // of a source of all categories
	suspect    func()                   // called when connections may be dead
	gate       *gate                    // nil in tests without a store
	forked     func(missing int)
	logger     *slog.Logger

	limit   *acquireLimit // of the reads
	history source.History
	begun   bool  // a page has been read
	woken   bool  // by a notification since, for the page function, which sets it back
	split   int64 // where the last loss has begun; nothingDue: there was none
}

// A question asks for a page.
type question struct {
	from checkpoint
	most int64
	// first says that this is the first step of a page, which may be repeated.
	first bool
}

// An answer is a page.
type answer struct {
	messages []Message
	// head is the last message before the read, whether or not a filter selects it. Its
	// position is before the first message if no head was read.
	head anchor
	// more says that there may be more to read although there are fewer messages than the
	// question asks for.
	more bool
	// kept says that a step which failed has kept what had arrived, so that the next one is
	// not the first.
	kept bool
}

// errGone is returned by a source's page if the message after which it begins is not there.
var errGone = errors.New("the last known message is not there")

// The errors of a source that waits, because it may have read from a server that does not
// have the last known message yet.
var (
	errBehind = errors.New("the server, a standby, does not have the last known message yet")
	errDiffer = errors.New("the last known message was not in the store, and then was, as on servers with different replication lag")
)

// errLostWithin is returned by a source that reads a page again: a message with which the page
// began, or that an earlier step has read, is not there, and nothing of the page was
// delivered.
var errLostWithin = errors.New("messages were lost while a page was read")

func init() {
	source.Opener = openSource
	source.NewHandlerError = newHandlerError
}

// openSource returns a source of the whole category.
func openSource(s *Store, category Category, hooks source.Hooks) (*source.Opened[Message], error) {
	var f argumentFaults
	f.category("category", category)
	if err := f.err(); err != nil {
		return nil, err
	}
	src := s.categorySource(category, readConfig{wanted: hooks.Wanted, batchBytes: DefaultBatchBytes})
	src.beforeRead = hooks.BeforeRead
	if hooks.Retried != nil {
		src.retried = func(ctx context.Context, r Retry) error { return hooks.Retried(ctx, r.Attempt, r.Err) }
	}
	return &source.Opened[Message]{
		Source: src,
		After: func(ctx context.Context, position int64) (c checkpoint, err error) {
			err = src.retryTransient(ctx, func(ctx context.Context) (err error) {
				c, err = src.after(ctx, position)
				return err
			})
			return c, err
		},
		First: src.first,
		Subscribe: func(wants func(stream string) bool) source.Sleeper {
			return s.bell.Subscribe(doorbell.Interest{Category: string(category), Wants: wants})
		},
		Polling: s.config.polling,
	}, nil
}

func (s *Store) categorySource(category Category, c readConfig) *messageSource {
	src := &messageSource{
		kind: "category", category: category,
		position: func(m *Message) int64 { return m.GlobalPosition },
	}
	return s.connectSource(src, pageRead{readConfig: c, name: string(category)})
}

func (s *Store) streamSource(stream StreamName, c readConfig) *messageSource {
	src := &messageSource{
		kind: "stream", category: stream.Category(), stream: stream,
		position: func(m *Message) int64 { return m.Position },
	}
	return s.connectSource(src, pageRead{readConfig: c, name: string(stream), isStream: true})
}

func (s *Store) connectSource(src *messageSource, r pageRead) *messageSource {
	src.split = nothingDue
	if s.replica == nil || r.primary || r.all != nil {
		src.page = s.pageReader(r)
	} else {
		src.page = s.followReplica(src, r)
	}
	src.compare = func(ctx context.Context, known []anchor) ([]bool, error) { return s.compareFinally(ctx, &r, known) }
	src.end = func(ctx context.Context) (checkpoint, error) { return s.endOf(ctx, &r) }
	src.after = func(ctx context.Context, position int64) (checkpoint, error) {
		return s.anchorBeforeFinally(ctx, &r, position)
	}
	src.firstPage = func(ctx context.Context, position, used, most int64) (checkpoint, answer, bool) {
		return s.firstPage(ctx, r, position, used, most)
	}
	src.suspect = s.watcher.suspect
	src.gate = s.gate
	src.forked = s.countFork
	src.logger = s.config.logger
	if src.kind != kindAll {
		src.logger = src.logger.With(src.kind, r.name)
	}
	return src
}

// Next reads a page, see [source.Source].
func (s *messageSource) Next(ctx context.Context, from checkpoint, most int) (source.Page[Message], error) {
	page, l, err := s.readPage(ctx, from, most, false)
	if err == nil && l.known != nil {
		return s.fork(ctx, from, l)
	}
	return page, err
}

// tryNext is Next without retries, and reports nothing. If ok is false, Next says why.
func (s *messageSource) tryNext(ctx context.Context, from checkpoint, most int) (page source.Page[Message], ok bool) {
	page, l, err := s.readPage(ctx, from, most, true)
	return page, err == nil && l.known == nil
}

// A loss says which messages are lost.
type loss struct {
	known      []anchor // in descending order; nil: nothing is lost
	gone, rest []anchor // of them
}

// readPage reads a page, and tries each step once, or until it succeeds. It returns no page with a loss.
func (s *messageSource) readPage(ctx context.Context, from checkpoint, most int, once bool) (page source.Page[Message], l loss, err error) {
	var (
		a          answer
		unreadable *UnreadableError
	)
	q := question{from: from, most: int64(most), first: true}
	for more := true; more && err == nil; {
		err = s.attempt(ctx, once, func(ctx context.Context) (err error) {
			s.prepareRead()
			l = loss{}
			a, err = s.page(ctx, q)
			more = errors.Is(err, errMoreSteps)
			q.first = q.first && !a.kept
			switch {
			case more:
				q.first = false
				return nil
			case errors.Is(err, errGone):
				within := !q.first
				q.first = true
				if within && len(from.Anchors()) == 0 {
					return errLostWithin
				}
				l.known = s.history.Known(from)
				if l.gone, l.rest, err = s.compareKnown(ctx, l.known); within && errors.Is(err, errDiffer) {
					return errLostWithin
				}
				return err
			case errors.As(err, &unreadable):
				return nil
			}
			return err
		})
	}
	if err == nil && l.known == nil {
		page = s.pageOf(from, &a, unreadable, most)
	}
	return page, l, err
}

// prepareRead is called before each read.
func (s *messageSource) prepareRead() {
	if s.beforeRead != nil && s.beforeRead() {
		s.woken = true
	}
}

// pageOf returns the page of an answer.
func (s *messageSource) pageOf(from checkpoint, a *answer, unreadable *UnreadableError, most int) (page source.Page[Message]) {
	s.begun = true
	n := len(a.messages)
	message := func(i int) anchor { return s.anchor(&a.messages[i]) }
	page.Messages, page.End, page.Full = a.messages, s.through(from, a.messages), n == most || a.more
	s.history.Add(n, message, true)
	if unreadable != nil {
		// Its time may be unknown, so the anchor remains the message before it.
		page.Unreadable, page.Past = unreadable, page.End.Past(s.position(unreadable.message()))
	} else if (!page.Full || s.kind == kindAll) && a.head.Position > page.End.Position {
		// A short page contains everything up to the head that the filter selects.
		head := func(int) anchor { return a.head }
		page.End = page.End.Advance(1, head)
		s.history.Add(1, head, false)
	}
	return page
}

// first reads a page, see [source.Opened].
func (s *messageSource) first(ctx context.Context, position, used int64, most int) (from checkpoint, page source.Page[Message], ok bool) {
	if ctx.Err() != nil {
		return from, page, false
	}
	s.prepareRead()
	from, a, ok := s.firstPage(s.limited(ctx), position, used, int64(most))
	if !ok {
		return from, page, false
	}
	return from, s.pageOf(from, &a, nil, most), true
}

func (s *messageSource) anchor(m *Message) anchor {
	return anchorOf(m, s.position(m))
}

// compareKnown divides what is known, in descending order, into those that are gone and the
// rest. Something is gone, unless the error is a transient one. In a stream and in a category,
// everything before the first one that is there is there, too.
func (s *messageSource) compareKnown(ctx context.Context, known []anchor) (gone, rest []anchor, err error) {
	there, err := s.compare(ctx, known)
	if err != nil {
		return nil, nil, err
	}
	for i, a := range known {
		if there[i] || len(rest) > 0 && s.kind != kindAll {
			rest = append(rest, a)
		} else {
			gone = append(gone, a)
		}
	}
	if len(gone) == 0 {
		return nil, nil, errDiffer
	}
	return gone, rest, nil
}

// fork returns to the newest known message that is there.
func (s *messageSource) fork(ctx context.Context, from checkpoint, l loss) (page source.Page[Message], err error) {
	page.Forked, page.Full = true, true
	page.Gone = s.history.Lose(l.gone)
	s.forked(len(page.Gone))
	if len(l.rest) == 0 {
		s.split = from.Position // it has begun somewhere before
		fork := s.describe(page.Gone, s.beginning())
		s.logger.LogAttrs(ctx, slog.LevelWarn, "none of the messages that were read is in the store", slog.Int("missing", len(page.Gone)))
		return page, &ForkError{fork}
	}
	page.End = source.Known(l.rest).KeepLatest(from, func(a anchor) bool { return slices.Contains(l.rest, a) })
	s.split = page.End.Position
	s.logger.LogAttrs(ctx, slog.LevelWarn, "messages that were read are no longer in the store: going back",
		slog.Int("missing", len(page.Gone)), slog.Int64("from", l.known[0].Position), slog.Int64("to", page.End.Position))
	return page, nil
}

// beginning returns the position before the first message.
func (s *messageSource) beginning() int64 {
	if s.stream != "" {
		return NoStream
	}
	return 0
}

func (s *messageSource) describe(gone []anchor, after int64) Fork {
	fork := Fork{Category: s.category, Stream: s.stream, After: after, Missing: make([]MissingMessage, len(gone))}
	for i, a := range gone {
		fork.Missing[i] = MissingMessage{Position: a.Position, ID: a.ID, Time: scan.Time(a.Time)}
	}
	return fork
}
