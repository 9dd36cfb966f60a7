package mdbweb

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// messagePage is a message with its causes and effects.
type messagePage struct {
	Message            shown
	Data, Metadata     *node
	DataText, MetaText string
	Flow               *flow
	Graph              *graph
	Previous, Next     *int64 // positions in the stream
}

func (h *Handler) message(w http.ResponseWriter, r *http.Request) error {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return errNotFound
	}
	look, _ := strconv.Atoi(r.FormValue("look")) // the limits apply
	var p messagePage
	err = h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) error {
		m, err := h.messageByID(ctx, tx, id)
		if err != nil {
			return err
		}
		p.Message = h.redacted(m)
		if err := tx.QueryRow(ctx, sqlNeighbours, string(m.Stream), m.Position).Scan(&p.Previous, &p.Next); err != nil {
			return err
		}
		f, err := flowOf(ctx, tx, &m, look)
		p.Flow = &f
		return err
	})
	if err != nil {
		return err
	}
	m := &p.Message
	p.Data, p.Metadata = tree(m.Data), tree(m.Metadata)
	p.DataText, p.MetaText = indented(m.Data), indented(m.Metadata)
	p.Graph = graphOf(p.Flow, m.ID)
	return h.render(w, r, "message", fmt.Sprintf("%s %s/%d", m.Type, m.Stream, m.Position), http.StatusOK, &p)
}

const sqlNeighbours = `SELECT
	(SELECT m.position FROM message_store.messages AS m WHERE m.stream_name = $1::text AND m.position < $2::bigint ORDER BY m.position DESC LIMIT 1),
	(SELECT m.position FROM message_store.messages AS m WHERE m.stream_name = $1::text AND m.position > $2::bigint ORDER BY m.position LIMIT 1)`
