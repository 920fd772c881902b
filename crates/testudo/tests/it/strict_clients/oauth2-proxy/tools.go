//go:build tools

// The program that is built from these modules. They are apart from those of the client, which is built on newer ones.
package main

import _ "github.com/oauth2-proxy/oauth2-proxy/v7"
