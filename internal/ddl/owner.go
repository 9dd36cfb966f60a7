package ddl

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// OfOwner returns err, and says who can change the table and its sequence if it is the server's refusal to do so.
func OfOwner(err error) error {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) && refusal.Code == "42501" {
		return fmt.Errorf("%w (only the owner of the table message_store.messages can do that)", err)
	}
	return err
}
