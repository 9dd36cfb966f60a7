// Find-postgres prints the folder with the PostgreSQL programs from which tests start
// servers. Its exit status is 3 if there are none, and 1 for other failures.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

func main() {
	bin, _, err := pgtest.Find(context.Background())
	switch {
	case errors.Is(err, pgtest.ErrNotFound):
		os.Exit(3)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(bin)
}
