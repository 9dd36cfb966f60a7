package mdbweb

import (
	"context"
	"net/http"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

// messagesPage is a page of messages.
type messagesPage struct {
	selection
	found

	Order string // the parameter
}

// Name returns what the messages are those of.
func (p *messagesPage) Name() string { return p.Stream + p.Category }

// StreamCategory is the category of the stream.
func (p *messagesPage) StreamCategory() mdb.Category { return mdb.StreamName(p.Stream).Category() }

func (h *Handler) messages(w http.ResponseWriter, r *http.Request) error {
	s, err := selected(r)
	if err != nil {
		return err
	}
	p := messagesPage{selection: s, Order: r.FormValue("order")}
	err = h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) (err error) {
		p.found, err = h.list(ctx, tx, &p.selection)
		return err
	})
	if err != nil {
		return err
	}
	title := "All messages"
	if p.Selects() {
		title = p.Name()
	}
	return h.render(w, r, "messages", title, http.StatusOK, &p)
}

// selected reads the parameters of a selection.
func selected(r *http.Request) (s selection, err error) {
	s = selection{Stream: r.FormValue("stream"), Category: r.FormValue("category"), Type: r.FormValue("type")}
	switch order := r.FormValue("order"); order {
	case "", "latest":
	case "first":
		s.Ascending = true
	default:
		return s, wrongInput("The order is neither latest nor first.")
	}
	if s.Stream != "" && s.Category != "" {
		return s, wrongInput("There is a stream and a category. One of them is enough.")
	}
	if s.Before, err = position(r, "before"); err != nil {
		return s, err
	}
	s.After, err = position(r, "after")
	if s.Before != nil && s.After != nil {
		return s, wrongInput("There are two positions. One of them is enough.")
	}
	return s, err
}

// position reads a parameter that is a position.
func position(r *http.Request, name string) (*int64, error) {
	given := r.FormValue(name)
	if given == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(given, 10, 64)
	if err != nil {
		return nil, wrongInput("The position is not a number.")
	}
	return &n, nil
}
