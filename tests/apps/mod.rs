//! Many apps in the background: the daemon that keeps them, and the commands that speak to it.

mod control;
mod day;
mod fate;
mod keys;
mod kinds;
mod monit;
mod narrow;
mod output;
mod pm2;
mod startup;
