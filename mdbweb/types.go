package mdbweb

import (
	"context"
	"net/http"

	"github.com/jackc/pgx/v5"
)

// typesPage is the types of the store or of a category.
type typesPage struct {
	Category string
	Types    []*summary
	Survey   *survey
}

func (h *Handler) types(w http.ResponseWriter, r *http.Request) error {
	p := typesPage{Category: r.FormValue("category")}
	err := h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) (err error) {
		p.Survey, err = h.survey.take(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	p.Types = p.Survey.types(p.Category)
	return h.render(w, r, "types", "Types", http.StatusOK, p)
}
