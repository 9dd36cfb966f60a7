package mdbweb

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

var (
	errNotFound    = errors.New("not found")
	errForbidden   = errors.New("forbidden")
	errForeignForm = errors.New("a form of another site")
	errReadOnly    = errors.New("read-only")
)

// A wrongInput says what is wrong with the parameters of a request.
type wrongInput string

func (e wrongInput) Error() string { return string(e) }

// failurePage says what a user can do.
type failurePage struct{ Problem, Remedy string }

// fail shows an error, without texts of the server that can quote a row.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, p := explain(err)
	if status >= http.StatusInternalServerError {
		h.config.logger.Error("a page could not be shown", "path", r.URL.Path, "error", beside.Explain("show a page", err))
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	if err := h.render(w, r, "failure", http.StatusText(status), status, p); err != nil {
		h.config.logger.Error("the page of a failure could not be shown", "error", err)
	}
}

func explain(err error) (status int, p failurePage) {
	if partly := (*partlyDone)(nil); errors.As(err, &partly) && partly.n > 0 {
		status, p = explain(partly.err)
		return status, failurePage{fmt.Sprintf("%s of %s were done, then: %s", number(partly.n), number(int64(partly.of)), p.Problem), "Look at what is still parked."}
	}
	var (
		wrong    wrongInput
		argument *mdb.ArgumentError
		setup    *mdb.SetupError
		missing  *consumer.NotFoundError
		conflict *consumer.ConflictError
		server   *pgconn.PgError
	)
	switch {
	case errors.Is(err, errNotFound), errors.Is(err, mdb.ErrNoMessage), errors.As(err, &missing):
		return http.StatusNotFound, failurePage{"There is nothing here.", "It may have been deleted, or the link is incomplete."}
	case errors.Is(err, errForbidden):
		return http.StatusForbidden, failurePage{"You may not see this page.", "Without a token, only clients on the same machine may, and not through a proxy."}
	case errors.Is(err, errForeignForm):
		return http.StatusForbidden, failurePage{"This form does not come from a page of ours, or its cookie is missing.", "Open the page again, and allow cookies. Nothing was changed."}
	case errors.Is(err, errReadOnly):
		return http.StatusForbidden, failurePage{"These pages are read-only.", "Start mdb web with -write, or pass mdbweb.WithWrites, to change anything."}
	case errors.As(err, &wrong):
		return http.StatusBadRequest, failurePage{string(wrong), "Correct the address, or begin at the overview."}
	case errors.As(err, &argument):
		return http.StatusBadRequest, failurePage{argument.Error(), "Correct the address, or begin at the overview."}
	case errors.As(err, &conflict):
		return http.StatusConflict, failurePage{conflict.Problem, "Nothing was changed. Look at the page again."}
	case errors.As(err, &setup):
		return http.StatusInternalServerError, failurePage{setup.Problem, setup.Remedy}
	case errors.Is(err, errBusy):
		return http.StatusServiceUnavailable, failurePage{"All connections are in use.", "The number of queries at the same time is limited, to protect the database. Reload the page in a moment."}
	case errors.As(err, &server) && server.Code == "57014", errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, failurePage{"The database did not answer in time.", "The query was cancelled, to protect the database. Reload the page in a moment."}
	case errors.As(err, &server):
		return http.StatusInternalServerError, failurePage{"The database reported the error " + server.Code + ".", "The log says more."}
	case errors.Is(err, mdb.ErrUnavailable), errors.As(err, new(*pgconn.ConnectError)):
		return http.StatusServiceUnavailable, failurePage{"The database cannot be reached.", "Reload the page in a moment."}
	}
	return http.StatusInternalServerError, failurePage{"The page cannot be shown.", "The log says why."}
}
