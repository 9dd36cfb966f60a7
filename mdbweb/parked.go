package mdbweb

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// maxParked is how many parked streams a page shows.
const maxParked = 200

// A parkedFilter selects what is parked of a consumer.
type parkedFilter struct {
	ledger.ParkedFilter

	Consumer string
}

// parkedPage is what is parked of a consumer and selected by a filter.
type parkedPage struct {
	parkedFilter
	ledger.ParkedCount

	Parked []consumer.ParkedStream
	Done   string // what was done, after a change
}

func (h *Handler) parked(w http.ResponseWriter, r *http.Request) (err error) {
	p := parkedPage{Done: done(r)}
	if p.ParkedCount, p.Parked, err = h.selectParked(r, &p.parkedFilter, ""); err != nil {
		return err
	}
	slices.Sort(p.Categories)
	return h.render(w, r, "parked", "Parked: "+p.Consumer, http.StatusOK, &p)
}

// selectParked reads the filter, and what it selects: what a page shows of it, or everything if its digest is the one that is given.
func (h *Handler) selectParked(r *http.Request, f *parkedFilter, all string) (count ledger.ParkedCount, list []consumer.ParkedStream, err error) {
	*f = parkedFilter{Consumer: r.FormValue("name"), ParkedFilter: ledger.ParkedFilter{
		Category: r.FormValue("category"), Prefix: r.FormValue("q"), Error: r.FormValue("error"), Stream: r.FormValue("stream"),
	}}
	if f.At, err = position(r, "at"); err != nil {
		return count, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	read := beside.SelectParked.(func(*consumer.Operator, context.Context, string, *ledger.ParkedFilter, func(*ledger.ParkedCount) *int) ( //nolint:forcetypeassert // what consumer sets
		ledger.ParkedCount, []consumer.ParkedStream, error))
	return read(h.watcher, ctx, f.Consumer, &f.ParkedFilter, func(c *ledger.ParkedCount) *int {
		if c.Digest == all {
			return nil
		}
		most := maxParked
		return &most
	})
}

// done says what a change has done, by the parameters of the page to which it leads.
func done(r *http.Request) string {
	n, err := strconv.ParseInt(r.FormValue("done"), 10, 64)
	if err != nil {
		return ""
	}
	switch r.FormValue("what") {
	case replay:
		return plural(n, "stream") + " will be replayed."
	case skip:
		return plural(n, "message") + " skipped."
	}
	return ""
}

const (
	replay = "replay"
	skip   = "skip"

	changeTime = time.Minute
)

// A partlyDone is the error of a change after which some of the selected messages have been skipped.
type partlyDone struct {
	n   int64
	of  int
	err error
}

func (e *partlyDone) Error() string {
	return fmt.Sprintf("%d of %d were changed: %v", e.n, e.of, e.err)
}
func (e *partlyDone) Unwrap() error { return e.err }

// confirmPage says what a change would do.
type confirmPage struct {
	parkedFilter

	Action  string
	Parked  []consumer.ParkedStream
	N       int
	Digest  string
	Changed bool // since the user was asked
}

// change replays or skips what a filter selects, when the user has confirmed just that.
func (h *Handler) change(w http.ResponseWriter, r *http.Request) error {
	if h.operator == nil {
		return errReadOnly
	}
	p := confirmPage{Action: r.PostFormValue("action")}
	if p.Action != replay && p.Action != skip {
		return wrongInput("The action is neither replay nor skip.")
	}
	confirmed := r.PostFormValue("confirmed")
	action, selection, _ := strings.Cut(confirmed, " ")
	if action != p.Action {
		selection = ""
	}
	count, selected, err := h.selectParked(r, &p.parkedFilter, selection)
	if err != nil {
		return err
	}
	p.N, p.Digest = count.Selected, p.Action+" "+count.Digest
	if p.N == 0 || confirmed != p.Digest {
		p.Changed = confirmed != ""
		p.Parked = selected
		return h.render(w, r, "confirm", "Confirm: "+p.Action, http.StatusOK, &p)
	}
	// What the user has confirmed is done even if the browser is closed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), changeTime)
	defer cancel()
	n, err := h.carryOut(ctx, p.Action, p.Consumer, selected)
	line := "a user replays parked streams"
	if p.Action == skip {
		line = "a user skips parked messages"
	}
	result := "done"
	if err != nil {
		_, failure := explain(err)
		result = failure.Problem
	}
	h.config.logger.Info(line, "user", user(r), "remote", r.RemoteAddr, "consumer", p.Consumer, "result", result, "selected", p.N, "changed", n,
		"category", p.Category, "prefix", p.Prefix, "containing", p.Error, "stream", p.Stream)
	if err != nil {
		return &partlyDone{n, p.N, err}
	}
	return h.redirect(w, r, "/consumers/parked", "name", p.Consumer, "category", p.Category, "q", p.Prefix, "error", p.Error, "what", p.Action, "done", n)
}

// carryOut returns how many streams are replayed, or how many messages were skipped.
func (h *Handler) carryOut(ctx context.Context, action, name string, selected []consumer.ParkedStream) (n int64, err error) {
	if action == replay {
		streams := make([]mdb.StreamName, 0, len(selected))
		for i := range selected {
			streams = append(streams, selected[i].Stream)
		}
		return h.operator.Replay(ctx, name, streams...)
	}
	// The first of those that are parked of a stream comes first.
	ordered := slices.Clone(selected)
	slices.SortStableFunc(ordered, func(a, b consumer.ParkedStream) int {
		return cmp.Or(strings.Compare(string(a.Stream), string(b.Stream)), cmp.Compare(a.Position, b.Position))
	})
	for i := range ordered {
		if err := h.operator.Skip(ctx, name, ordered[i].Stream, consumer.AtPosition(ordered[i].Position)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
