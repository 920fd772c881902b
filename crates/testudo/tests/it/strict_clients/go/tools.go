//go:build tools

// What else is taken from these modules: vectors that are read.
package main

import _ "github.com/c2sp/wycheproof"
