package mdbweb

import (
	"context"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

// activeMessages is how many messages a look for active streams looks at.
const activeMessages = 2000

// streamsPage is the streams with a prefix, or those that were written to last.
type streamsPage struct {
	Prefix, After string
	Category      string // of the prefix, if there is one
	Active        bool
	Streams       []named
	Next          string
	Ended         bool
	Looked        int
}

func (h *Handler) streams(w http.ResponseWriter, r *http.Request) error {
	p := streamsPage{Prefix: r.FormValue("q"), After: r.FormValue("after"), Looked: activeMessages}
	p.Active = p.Prefix == "" && p.After == "" && r.FormValue("order") != "name"
	if s := mdb.StreamName(p.Prefix); string(s.Category()) != p.Prefix {
		p.Category = string(s.Category())
	}
	err := h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) error {
		if p.Active {
			rows, _ := tx.Query(ctx, sqlActive, activeMessages, pageNames)
			var err error
			p.Streams, err = pgx.CollectRows(rows, toNamed)
			return err
		}
		found, err := walk(ctx, tx, sqlStreams, p.Prefix, p.After)
		p.Streams, p.Next, p.Ended = found.List, found.Next, found.Ended
		return err
	})
	if err != nil {
		return err
	}
	return h.render(w, r, "streams", "Streams", http.StatusOK, p)
}
