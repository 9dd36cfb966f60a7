package mdbweb

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// maxParked is how many parked streams a page shows.
const maxParked = 200

// A parkedFilter selects what is parked of a consumer.
type parkedFilter struct {
	Consumer, Category, Prefix, Error string
	Stream                            string // only this one
	At                                *int64 // only at this position
}

// fits reports whether the filter selects a parked stream.
func (f *parkedFilter) fits(p *consumer.ParkedStream) bool {
	return (f.Category == "" || string(p.Category) == f.Category) && strings.HasPrefix(string(p.Stream), f.Prefix) &&
		strings.Contains(strings.ToLower(p.Error), strings.ToLower(f.Error)) &&
		(f.Stream == "" || string(p.Stream) == f.Stream) && (f.At == nil || p.Position == *f.At)
}

// parkedPage is what is parked of a consumer and selected by a filter.
type parkedPage struct {
	parkedFilter

	Parked     []consumer.ParkedStream
	All        int // without the filter
	Selected   int
	Categories []mdb.Category
	Done       string // what was done, after a change
}

func (h *Handler) parked(w http.ResponseWriter, r *http.Request) error {
	p := parkedPage{Done: done(r)}
	all, selected, err := h.selectParked(r, &p.parkedFilter)
	if err != nil {
		return err
	}
	p.All, p.Selected = len(all), len(selected)
	for _, s := range all {
		if !slices.Contains(p.Categories, s.Category) {
			p.Categories = append(p.Categories, s.Category)
		}
	}
	p.Parked = selected[:min(len(selected), maxParked)]
	return h.render(w, r, "parked", "Parked: "+p.Consumer, http.StatusOK, &p)
}

// selectParked reads the filter, and what it selects.
func (h *Handler) selectParked(r *http.Request, f *parkedFilter) (all, selected []consumer.ParkedStream, err error) {
	*f = parkedFilter{
		Consumer: r.FormValue("name"), Category: r.FormValue("category"), Prefix: r.FormValue("q"), Error: r.FormValue("error"), Stream: r.FormValue("stream"),
	}
	if f.At, err = position(r, "at"); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	if all, err = h.watcher.Parked(ctx, f.Consumer); err != nil {
		return nil, nil, err
	}
	for i := range all {
		if f.fits(&all[i]) {
			selected = append(selected, all[i])
		}
	}
	return all, selected, nil
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
	_, selected, err := h.selectParked(r, &p.parkedFilter)
	if err != nil {
		return err
	}
	p.N, p.Digest = len(selected), digest(p.Action, selected)
	confirmed := r.PostFormValue("confirmed")
	if p.N == 0 || confirmed != p.Digest {
		p.Changed = confirmed != ""
		p.Parked = selected[:min(len(selected), maxParked)]
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

// digest identifies what the user confirms: the action and each stream with its position.
func digest(action string, selected []consumer.ParkedStream) string {
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%s\n", action) // a hash has no errors
	for i := range selected {
		_, _ = fmt.Fprintf(sum, "%q %q %d\n", selected[i].Category, selected[i].Stream, selected[i].Position)
	}
	return hex.EncodeToString(sum.Sum(nil))
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
