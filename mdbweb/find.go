package mdbweb

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// find goes to what the user has typed: the ID or the global position of a message, a stream, or the beginning of the
// name of a stream or a category. Links to a message by its place lead here, too.
func (h *Handler) find(w http.ResponseWriter, r *http.Request) error {
	q := strings.TrimSpace(r.FormValue("q"))
	stream, at := r.FormValue("stream"), r.FormValue("position")
	if at == "" && strings.Contains(q, "/") { // as mdb prints it: account-123/4
		i := strings.LastIndexByte(q, '/')
		if _, err := strconv.ParseInt(q[i+1:], 10, 64); err == nil {
			stream, at = q[:i], q[i+1:]
		}
	}
	id, err := uuid.Parse(q)
	isID := err == nil
	global, err := strconv.ParseInt(strings.ReplaceAll(q, ",", ""), 10, 64)
	isPosition := err == nil
	if at != "" || isID || isPosition {
		var m shown
		err := h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) (err error) {
			switch {
			case at != "":
				n, err := strconv.ParseInt(at, 10, 64)
				if err != nil {
					return wrongInput("The position is not a number.")
				}
				m, err = h.messageAt(ctx, tx, stream, n)
				return err
			case isID:
				m, err = h.messageByID(ctx, tx, id)
			default:
				m, err = h.messageAtGlobal(ctx, tx, global)
			}
			return err
		})
		if err != nil {
			return err
		}
		return h.redirect(w, r, "/message/"+m.ID.String())
	}
	if strings.Contains(q, "-") {
		return h.redirect(w, r, "/streams", "q", q)
	}
	return h.redirect(w, r, "/", "q", q)
}

func (h *Handler) redirect(w http.ResponseWriter, r *http.Request, path string, params ...any) error {
	link, err := h.to(path, params...)
	if err == nil {
		http.Redirect(w, r, link, http.StatusSeeOther)
	}
	return err
}
