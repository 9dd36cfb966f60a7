package mdbweb

import (
	"context"
	"net/http"

	"github.com/jackc/pgx/v5"
)

// overviewPage is the categories, with how much the store contains and what is written to it.
type overviewPage struct {
	Prefix, After string
	Total         count
	Head          *named // the last message
	Categories    []*category
	Next          string
	Ended         bool
	Throughput    *chart
}

// A category is one with its last message.
type category struct {
	named

	Count count
	Share float64 // of the largest one's count
}

// SharePercent is the length of a bar.
func (c *category) SharePercent() float64 { return 100 * c.Share }

func (h *Handler) overview(w http.ResponseWriter, r *http.Request) error {
	p := overviewPage{Prefix: r.FormValue("q"), After: r.FormValue("after")}
	err := h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) error {
		survey, err := h.survey.take(ctx, tx)
		if err != nil {
			return err
		}
		p.Total = survey.Total
		found, err := walk(ctx, tx, sqlCategories, p.Prefix, p.After)
		if err != nil {
			return err
		}
		p.Next, p.Ended = found.Next, found.Ended
		if p.Categories, err = counted(ctx, tx, survey, found.List); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, sqlActive, 1, 1)
		last, err := pgx.CollectRows(rows, toNamed)
		if err != nil || len(last) == 0 {
			return err
		}
		p.Head = &last[0]
		p.Throughput, err = throughputOf(ctx, tx, windows[1])
		return err
	})
	if err != nil {
		return err
	}
	return h.render(w, r, "overview", "Overview", http.StatusOK, p)
}

// counted counts the messages of categories that seem to be small, and estimates the others.
func counted(ctx context.Context, tx pgx.Tx, s *survey, list []named) ([]*category, error) {
	sampled := s.categories()
	var small []string
	for _, n := range list {
		if estimate := s.of(sampled[n.Name]); estimate.Estimated && estimate.N <= maxCount {
			small = append(small, n.Name)
		}
	}
	exact, err := counts(ctx, tx, small)
	if err != nil {
		return nil, err
	}
	categories := make([]*category, 0, len(list))
	most := int64(1)
	for _, n := range list {
		c, ok := exact[n.Name]
		if !ok {
			c = s.of(sampled[n.Name])
		}
		most = max(most, c.N)
		categories = append(categories, &category{named: n, Count: c})
	}
	for i := range categories {
		categories[i].Share = float64(categories[i].Count.N) / float64(most)
	}
	return categories, nil
}
